"""(g) forged keys at full speed from one address, beside good traffic from another."""

import json
import random
import statistics
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from bench import Bench, say
from load import Figures, Ratio, Side, once, same_keys, table_of, wrk
from seed import Place
from servers import HERE, Server, serving

KEYS = 1_000
SOURCE = "127.0.0.2"
FORGED = 10_000
ROWS = "SELECT count(*) FROM usage.access_log WHERE client_ip = %(source)s"


def flood(bench: Bench) -> dict[str, Any]:
    """(g): alone, and beside a flood over as many connections, in turns; behind the door for proxies and on a route."""
    place = bench.place(KEYS)
    return {
        name: _beside(bench, place, name, path, connections)
        for name, path, connections in (
            ("forward", "/auth/forward", 32), ("route", "/", 32), ("forward, 128", "/auth/forward", 128),
        )
    }  # fmt: skip


def _beside(bench: Bench, place: Place, name: str, path: str, connections: int) -> dict[str, Any]:
    say(f"(g) flood beside {name}")
    forged = _forged(bench.data / "keys" / "forged.keys")
    attempts: Counter[str] = Counter()
    rates: list[float] = []
    alone, beside = Figures(0), Figures(0)
    before = _rows(place)
    with serving("keyledger", place, data=bench.data) as server:
        keys = same_keys(place)
        wrk(server.url + path, keys(0), bench.plan.connections, 1)
        for number in range(bench.plan.rounds):
            alone.rounds.append(
                once(Side(f"{name}, alone", server, path, keys, rows=True), bench.plan, number, bench.problems)
            )
            with _flooded(server, path, connections, bench.plan.seconds + 2, forged) as answers:
                # The flood's few rows come among those of the good traffic, so they are counted apart.
                side = Side(f"{name}, beside", server, path, keys)
                beside.rounds.append(once(side, bench.plan, number, bench.problems))
            attempts += answers
            rates.append(answers.total() / (bench.plan.seconds + 2))
        bcrypts = int(server.get("/counts")[1].partition(b":")[2].rstrip(b"}"))
    rows = _rows(place) - before
    refused = attempts["401"]
    bench.check(f"{name}: bcrypt was called {bcrypts} times", bcrypts == 0)
    bench.check(f"{name}: answers {dict(attempts)}", set(attempts) <= {"401", "429"})
    bench.check(f"{name}: {rows} rows for {refused} refusals", rows == refused)
    return {
        "sides": table_of({"alone": alone, "beside": beside}),
        "kept": asdict(Ratio.of(beside, alone)),
        "attempt_us": statistics.median(
            (with_it.cpu_us * with_it.rate - without.cpu_us * with_it.rate) / rate
            for without, with_it, rate in zip(alone.rounds, beside.rounds, rates, strict=True)
        ),
        "connections": connections,
        "attempts": dict(attempts),
        "flood_rate": statistics.median(rates),
        "rows": rows,
        "bcrypts": bcrypts,
    }


@contextmanager
def _flooded(server: Server, path: str, connections: int, seconds: float, forged: Path) -> Generator[Counter[str]]:
    """A flood from before the block until after it; what it was answered is filled in at the end."""
    words = [str(server.port), path, SOURCE, str(connections), str(seconds), str(forged)]
    answers: Counter[str] = Counter()
    with subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, str(HERE / "flood.py"), *words], stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("the flood does not flow")
        time.sleep(0.5)  # until it flows at its full rate
        yield answers
        answers.update(json.loads(process.stdout.readline()))


def _forged(path: Path) -> Path:
    """Credentials of the right form with made-up tags."""
    if not path.exists():
        path.write_text("".join(f"sk_live_{_letters(9)}_{_letters(43)}\n" for _ in range(FORGED)), encoding="ascii")
    return path


def _letters(count: int) -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=count))  # noqa: S311 - no secrets


def _rows(place: Place) -> int:
    with psycopg.connect(place.conninfo) as connection:
        row = connection.execute(ROWS, {"source": SOURCE}).fetchone()
    return int(row[0]) if row else 0
