"""(e) the same with a thousand, a hundred thousand and a million keys: hit, miss, memory, start, first use."""

import statistics
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import machine
import psycopg
from bench import Bench, say
from load import Plan, Ratio, Side, alternate, once, same_keys, table_of, wrk
from seed import Place
from servers import serving

HITS = 1_000
FEW = 16
CHUNK = 10_000
PART = 2_000  # keys that are looked up within a second
RECEIPTS = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = 'credentials' AND relname = 'verifiers'"


def sizes(bench: Bench) -> dict[str, Any]:
    """(e)."""
    places = [bench.place(count) for count in bench.sizes()]
    return {
        "sizes": [place.count for place in places],
        "hits": _hits(bench, places),
        "misses": _misses(bench, places),
        "starts": {str(place.count): _starts(bench, place) for place in places},
        "first_use": _first_use(bench, bench.place(100_000)),
        "memory": _memory(bench, places[-1]),
    }


def _hits(bench: Bench, places: list[Place]) -> dict[str, Any]:
    """A thousand keys in turn, all remembered, in databases of each size; in the largest also as many as fit."""
    say("(e) hits")
    with ExitStack() as stack:
        servers = [stack.enter_context(serving("keyledger", place, data=bench.data)) for place in places]
        sides = [
            Side(str(place.count), server, "/auth/forward", same_keys(place, HITS), rows=True)
            for place, server in zip(places, servers, strict=True)
        ]
        figures = alternate(sides, bench.plan, bench.problems)
    return _compared(figures, [str(place.count) for place in places])


def _misses(bench: Bench, places: list[Place]) -> dict[str, Any]:
    """Keys that are not remembered, none twice where there are enough of them; a memory of sixteen keys."""
    say("(e) misses")
    # Many short rounds: of four, the median moved by more than what is asked of it.
    plan = Plan(2 if bench.quick else 9, 1 if bench.quick else 2, bench.postmaster)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serving("keyledger", place, data=bench.data, cache_keys=FEW)) for place in places
        ]
        sides = [
            Side(str(place.count), server, "/auth/forward", _fresh(place), rows=True, fresh=place.count > CHUNK)
            for place, server in zip(places, servers, strict=True)
        ]
        figures = alternate(sides, plan, bench.problems)
    return _compared(figures, [str(place.count) for place in places])


def _compared(figures: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """With each size's cost over the smallest one's."""
    first = figures[names[0]]
    cost = {name: asdict(Ratio.of(figures[name], first, "cpu_us")) for name in names[1:]}
    rate = {name: asdict(Ratio.of(figures[name], first)) for name in names[1:]}
    return {"sides": table_of(figures), "cost": cost, "rate": rate}


def _fresh(place: Place) -> Any:
    """By round, another part of the keys; the warm-up has one, too."""

    def keys(number: int) -> Path:
        if place.count <= CHUNK:
            return place.keys_file(0, place.count)
        return place.keys_file((number + 1) * CHUNK, CHUNK)

    return keys


def _starts(bench: Bench, place: Place) -> float:
    """Seconds from the command until the first key can be verified, the median of some starts."""
    seconds: list[float] = []
    for _ in range(2 if bench.quick else 7):
        with serving("keyledger", place, data=bench.data, jobs=False) as server:
            seconds.append(server.start_seconds)
    return statistics.median(seconds)


def _first_use(bench: Bench, place: Place) -> dict[str, float]:
    """A server just started, a hundred thousand active keys: the first use of some thousand of them, none twice."""
    say("(e) first use after a restart")
    plan = Plan(1, 1 if bench.quick else 5, bench.postmaster)
    before = _rewritten(place)
    with serving("keyledger", place, data=bench.data) as server:
        keys = place.keys_file(0, place.count)
        seen = once(
            Side("first use", server, "/auth/forward", lambda _: keys, rows=True, fresh=True), plan, 0, bench.problems
        )
        bcrypts = int(server.get("/counts")[1].partition(b":")[2].rstrip(b"}"))
    # Counters are told at the latest when a connection ends.
    rewritten = _rewritten(place) - before
    bench.check(f"first use called bcrypt {bcrypts} times", bcrypts == 0)
    bench.check(f"first use wrote {rewritten} receipts", rewritten == 0)
    return {
        "keys": seen.requests,
        "bcrypts": bcrypts,
        "receipts_written": rewritten,
        "cpu_us": seen.cpu_us,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
    }


def _rewritten(place: Place) -> int:
    with psycopg.connect(place.conninfo) as connection:
        row = connection.execute(RECEIPTS).fetchone()
    return int(row[0]) if row else 0


def _memory(bench: Bench, place: Place) -> list[dict[str, float]]:
    """Of a worker that has seen twice as many keys as it may remember: at its start, when full, and at the end."""
    say("(e) memory")
    table: list[dict[str, float]] = []
    for capacity in (1_000, 10_000) if bench.quick else (1_000, 10_000, 100_000):
        with serving("keyledger", place, data=bench.data, cache_keys=capacity) as server:
            (worker,) = server.workers()
            row: dict[str, float] = {"capacity": capacity, "start": machine.resident_bytes(worker)}
            for turn, name in enumerate(("full", "twice")):
                _present(bench, server.url, place, turn * capacity, capacity)
                row[name] = machine.resident_bytes(worker)
                if name == "full":
                    keys = place.keys_file(0, capacity)
                    side = Side(
                        f"all of {capacity} keys", server, "/auth/forward", lambda _, keys=keys: keys, rows=True
                    )
                    row["hit_us"] = once(side, replace(bench.plan, rounds=1), 0, bench.problems).cpu_us
            server.forget_log()
        table.append(row)
    return table


def _present(bench: Bench, url: str, place: Place, first: int, count: int) -> None:
    """Presents each of these keys once or more, a part after the other: each run begins its file anew."""
    for start in range(first, first + count, PART):
        keys = place.keys_file(start, min(PART, first + count - start))
        for _ in range(30):
            seen = wrk(url + "/auth/forward", keys, 32, 1)
            if seen["turns"] or seen["requests"] >= PART:
                break
        else:
            bench.problems.append(f"{count} keys could not be presented in time")
            return
