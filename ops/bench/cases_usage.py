"""(usage) what the access log costs: rates with it and without, a minute of rows, and the purge of a day under load."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import machine
import psycopg
from bench import Bench, say
from fill import fill
from load import Figures, Ratio, Side, alternate, loading, same_keys, table_of, wrk
from seed import Place
from servers import Server, serving

from infrastructure.scheduler import Job
from interfaces.bootstrap import jobs, open_core
from interfaces.settings import Settings

KEYS = 1_002  # a database of its own, as in (shape)
DOORS = {"forward": "/auth/forward", "route": "/"}
LOGS = ("none", "buffered", "commit")
# Of each door, on each side: so many that it works at its full rate with each log. A commit is shared by whoever waits
# for it, and a quick door needs more that wait; more than that only wait longer, on every side.
CONNECTIONS = {"forward": 192, "route": 64}
FEWER_AND_MORE = (32, 64, 128, 256)
QUEUE = "keyledger_access_log_queue_rows "
WRITTEN = "SELECT run_id, written_through FROM usage.writers"
# Older than any row may get, and younger.
GONE, KEPT = 91, 89
LIFETIME = """
    SELECT sum(requests + failed_attempts) FROM usage.bucket_counts
    WHERE width = 'hour' AND start < now() - interval '80 days'
"""
PARTS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage.access_log'::regclass ORDER BY 1"


def usage(bench: Bench) -> dict[str, Any]:
    """(usage)."""
    place = bench.place(KEYS)
    rates = _rates(bench, place)
    _settle(place)
    return rates | {"sustained": _sustained(bench, place), "purge": _purge(bench, place)}


def _rates(bench: Bench, place: Place) -> dict[str, Any]:
    """Both doors with each log, in turn.

    Nothing is settled meanwhile: what one side has written was settled in the rounds of the next.
    """
    say("(usage) rates")
    keys = same_keys(place)
    with ExitStack() as stack:
        servers = {
            "none": serving("unlogged", place, data=bench.data, jobs=False),
            "buffered": serving("keyledger", place, data=bench.data, jobs=False),
            "commit": serving("keyledger", place, data=bench.data, jobs=False, access_log_durability="commit"),
        }
        opened = {name: stack.enter_context(server) for name, server in servers.items()}
        figures = alternate(
            [side for door, count in CONNECTIONS.items() for side in _sides(opened, door, count, keys)],
            bench.plan,
            bench.problems,
        )
        by_connections = {str(count): _at(bench, opened, count, keys) for count in FEWER_AND_MORE}
    return {
        "connections": CONNECTIONS,
        "sides": table_of(figures),
        "by_connections": by_connections,
    } | _compared(figures)


def _sides(servers: Mapping[str, Server], door: str, connections: int, keys: Any) -> list[Side]:
    """A door with each log."""
    return [
        Side(f"{door}, {log}", servers[log], DOORS[door], keys, rows=log != "none", connections=connections)
        for log in LOGS
    ]


def _at(bench: Bench, servers: Mapping[str, Server], connections: int, keys: Any) -> dict[str, Any]:
    """Both doors with each log over so many connections, in short rounds."""
    say(f"(usage) over {connections} connections")
    plan = replace(bench.plan, rounds=1 if bench.quick else 3, seconds=1 if bench.quick else 3)
    sides = [side for door in DOORS for side in _sides(servers, door, connections, keys)]
    return _compared(alternate(sides, plan, bench.problems))


def _compared(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """Each door's rate with a log over that without, and how much longer half of its answers take with `commit`."""
    return {
        "ratios": {
            f"{door}, {log}": asdict(Ratio.of(figures[f"{door}, {log}"], figures[f"{door}, none"]))
            for door in DOORS
            for log in LOGS[1:]
        },
        "p50_more_ms": {door: _more_ms(figures[f"{door}, commit"], figures[f"{door}, none"]) for door in DOORS},
    }


def _settle(place: Place) -> None:
    """What the rounds have left, so that the next begin without it."""
    with ExitStack() as stack:
        settle = _jobs(place, stack)["settlement"]
        while settle.run():
            pass


def _more_ms(over: Figures, under: Figures) -> float:
    """How much longer the half of the answers take, the median of the rounds."""
    return statistics.median(a.p50_ms - b.p50_ms for a, b in zip(over.rounds, under.rounds, strict=True))


def _sustained(bench: Bench, place: Place) -> dict[str, Any]:
    """A minute of load as fast as it goes, for each durability: rows and the queue, second by second."""
    seconds = 6 if bench.quick else 60
    found: dict[str, Any] = {}
    for log in LOGS[1:]:
        say(f"(usage) {log} for {seconds} s")
        with (
            serving("keyledger", place, data=bench.data, access_log_durability=log) as server,
            ThreadPoolExecutor(1) as threads,
            psycopg.connect(place.conninfo, autocommit=True) as connection,
        ):
            url, keys = server.url + DOORS["forward"], same_keys(place)(0)
            wrk(url, keys, bench.plan.connections, 1)
            server.await_quiet()
            running = threads.submit(wrk, url, keys, bench.plan.connections, seconds)
            rows, queues = [_written(connection)], list[float]()
            for second in range(seconds):
                time.sleep(1)  # rows and queue by the second
                rows.append(_written(connection))
                queues += [_queue(server)] if 0 < second < seconds - 1 else []
                server.forget_log()
            seen = running.result()
        if seen["refused"] or seen["broken"]:
            bench.problems.append(f"{log}, sustained: {seen['refused']:.0f} refused, {seen['broken']:.0f} broken")
        # By run: one that was silent for a minute, of a server before this one, is taken out meanwhile.
        each = [
            sum(through - before.get(run, through) for run, through in after.items())
            for before, after in pairwise(rows)
        ]
        third = max(1, len(queues) // 3)
        found[log] = {
            "seconds": seconds,
            "answers": seen["requests"],
            "rows": statistics.mean(each),
            "rows_first": statistics.mean(each[:third]),
            "rows_last": statistics.mean(each[-third:]),
            "queue_first": statistics.median(queues[:third]),
            "queue_last": statistics.median(queues[-third:]),
            "queue_max": max(queues),
        }
    return found


def _written(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How far each run has written."""
    return dict(connection.execute(WRITTEN).fetchall())


def _queue(server: Server) -> float:
    """Rows that wait, as the service's metrics tell; told once a second."""
    text = server.get("/metrics")[1].decode()
    return next((float(line.removeprefix(QUEUE)) for line in text.splitlines() if line.startswith(QUEUE)), 0.0)


def _purge(bench: Bench, place: Place) -> dict[str, Any]:
    """Rounds of load, each followed by one beside a purge: in a process that has long begun, and by hand.

    The purge lies within its round, which lasts longer than the one before where the machine is slow.
    """
    seconds, rounds, rows = (8, 2, 100_000) if bench.quick else (40, 3, 2_000_000)
    fill(place.conninfo, rows=rows, ages=range(KEPT, KEPT + 1))
    with (
        serving("keyledger", place, data=bench.data, access_log_durability="commit") as server,
        ExitStack() as stack,
    ):
        retention = _jobs(place, stack)["retention"]
        ways = {"led": retention.run, "by_hand": lambda: _run_retention(place)}
        url, keys = server.url + DOORS["forward"], same_keys(place)(0)
        told = {way: _Purges() for way in ways}
        for turn, (way, purge) in enumerate(list(ways.items()) * rounds):
            fill(place.conninfo, rows=rows, ages=range(GONE + turn, GONE + turn + 1))
            os.sync()  # what the fill has left to write would be in the calm round
            wrk(url, keys, 8, 1)
            before = _lifetime(place)
            told[way].calm_ms.append(wrk(url, keys, 8, seconds)["p99_ms"])
            with loading(url, keys, 8) as seen:
                time.sleep(2)  # until all connections ask
                began = time.monotonic()
                purge()
                took = time.monotonic() - began
                time.sleep(max(2, seconds - 2 - took))  # as long as the calm round, or until 2 s after a longer purge
            told[way].took.append(took)
            told[way].purged_ms.append(seen["p99_ms"])
            server.forget_log()
            bench.check(f"a purge: {seen['refused']:.0f} refused", not seen["refused"] and not seen["broken"])
            bench.check("a purge changed lifetime counts", _lifetime(place) == before)
        parts = _parts(place)
    bench.check("a day past its time is there", len(parts) == len([part for part in parts if _age(part) <= KEPT]))
    bench.check("a day within its time is gone", any(_age(part) == KEPT for part in parts))
    return {"rows": rows} | told["led"].told() | {"by_hand": told["by_hand"].told()}


@dataclass(frozen=True)
class _Purges:
    """p99 of the round before each purge and of that beside it, in milliseconds, and the purge's seconds."""

    calm_ms: list[float] = field(default_factory=list[float])
    purged_ms: list[float] = field(default_factory=list[float])
    took: list[float] = field(default_factory=list[float])

    def told(self) -> dict[str, Any]:
        """For the results."""
        return asdict(self) | {"ratio": _over_calm(self.calm_ms, self.purged_ms)}


def _over_calm(calm: list[float], with_it: list[float]) -> dict[str, float]:
    each = [after / before for before, after in zip(calm, with_it, strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def _lifetime(place: Place) -> int:
    with psycopg.connect(place.conninfo) as connection:
        row = connection.execute(LIFETIME).fetchone()
    return int(row[0] or 0) if row else 0


def _parts(place: Place) -> Sequence[str]:
    with psycopg.connect(place.conninfo) as connection:
        return [row[0] for row in connection.execute(PARTS)]


def _age(part: str) -> int:
    return (datetime.now(UTC).date() - date.fromisoformat(part[-8:])).days


def _jobs(place: Place, stack: ExitStack) -> Mapping[str, Job]:
    """The service's jobs in this process, which has long begun, as the leader's has."""
    return jobs(open_core(Settings.read(_settings(place)), place.conninfo, stack))


def _settings(place: Place) -> dict[str, str]:
    return {"KEYLEDGER_DATABASE_URL": place.conninfo, "KEYLEDGER_SECRET_KEYS": place.secret.hex()}


def _run_retention(place: Place) -> None:
    """`keyledger jobs run retention`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    subprocess.run(
        [sys.executable, "-m", "interfaces.cli.main", "jobs", "run", "retention"],
        env=environment | _settings(place), cwd=machine.CHECKOUT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
