"""Load by wrk, and what it did to the server: answers, latency, processor time, access rows.

Two or more sides take turns, round by round, so that whatever else the machine does meets them alike. Every figure is
checked: a refusal, a broken connection, a key used twice where none may be, or an access row too few or too many is
reported as a problem.
"""

import json
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import machine
import psycopg
from seed import Place
from servers import HERE, Server

WARM_SECONDS = 1.0
SETTLED_SECONDS = 0.3
LOADING_SECONDS_MAX = 600
ROWS_SECONDS = 5.0  # after which a missing row is a lost one
MARKS = "SELECT run_id, written_through FROM usage.writers"
ROWS = """
    SELECT count(*) FROM usage.writers AS w
    LEFT JOIN unnest(%(runs)s::text[], %(marks)s::bigint[]) AS b (run_id, mark) ON b.run_id = w.run_id
    JOIN usage.access_log AS a ON a.run_id = w.run_id AND a.seq > coalesce(b.mark, 0)
"""


@dataclass(frozen=True)
class Plan:
    """How long and how often; ``postmaster`` is PostgreSQL's main process, ``connections`` are those of the load."""

    rounds: int
    seconds: float
    postmaster: int
    connections: int = 32


@dataclass(frozen=True)
class Round:
    """One round of one side. ``cpu_us``, ``database_us``: the server's and PostgreSQL's processor time for a request.

    ``load_busy``: how busy the load's core was; ``rows``: access rows written for it, None where none are expected;
    ``rows_after``: seconds after the load's end until they were there.
    """

    requests: int
    rate: float
    cpu_us: float
    database_us: float
    p50_ms: float
    p99_ms: float
    load_busy: float
    stolen: float
    rows: int | None = None
    rows_after: float = 0.0


@dataclass(frozen=True)
class Side:
    """One of those that are compared. ``keys``: the file of keys of a round, -1 is the warm-up; None: no keys.

    ``rows``: each request leaves one access row in the server's place. ``fresh``: no key may be used twice.
    ``connections``: None for as many as planned.
    """

    name: str
    server: Server
    path: str
    keys: Callable[[int], Path] | None = None
    rows: bool = False
    fresh: bool = False
    connections: int | None = None


@dataclass
class Figures:
    """What one side did in all rounds; ``warmed`` are the requests of its warm-up."""

    warmed: int
    rounds: list[Round] = field(default_factory=list[Round])

    def median(self, name: str) -> float:
        """The median of a field of the rounds."""
        return statistics.median(getattr(each, name) for each in self.rounds)

    def spread(self, name: str) -> tuple[float, float]:
        """Its lowest and highest value."""
        values = [getattr(each, name) for each in self.rounds]
        return min(values), max(values)


@dataclass(frozen=True)
class Ratio:
    """Of two sides, round by round: the median, and the lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, over: Figures, under: Figures, name: str = "rate") -> "Ratio":
        """``over`` ÷ ``under``."""
        each = [getattr(a, name) / getattr(b, name) for a, b in zip(over.rounds, under.rounds, strict=True)]
        return cls(statistics.median(each), min(each), max(each))


def alternate(sides: Sequence[Side], plan: Plan, problems: list[str]) -> dict[str, Figures]:
    """A warm-up of each, and then the rounds, all sides in each; by their names."""
    figures = {side.name: Figures(_warmed(side, plan)) for side in sides}
    for number in range(plan.rounds):
        for side in sides:
            figures[side.name].rounds.append(once(side, plan, number, problems))
    return figures


def once(side: Side, plan: Plan, number: int, problems: list[str]) -> Round:
    """One round of one side."""
    marks = _marks(side.server.place) if side.rows and side.server.place else {}
    cores = {core: machine.CoreTimes.of(core) for core in machine.BOTH_CORES}
    cpu, database = side.server.cpu_seconds(), machine.cpu_seconds(machine.tree_of(plan.postmaster))
    keys = None if side.keys is None else side.keys(number)
    connections = side.connections or plan.connections
    seen = wrk(side.server.url + side.path, keys, connections, plan.seconds)
    cpu = side.server.cpu_seconds() - cpu
    database = machine.cpu_seconds(machine.tree_of(plan.postmaster)) - database
    busy = max(machine.CoreTimes.of(core).busy_since(cores[core]) for core in machine.LOAD_CORES)
    stolen = max(machine.CoreTimes.of(core).stolen_since(before) for core, before in cores.items())
    requests = int(seen["requests"])
    rows, after = None, 0.0
    if side.rows and side.server.place:
        rows, after = _rows(side.server.place, marks, requests)
        if not requests <= rows <= requests + connections:
            problems.append(f"{side.name}: {rows} access rows for {requests} answers")
    problems += [
        f"{side.name}: {seen[name]:.0f} of {requests} requests {name}" for name in ("refused", "broken") if seen[name]
    ]
    if side.fresh and seen["turns"]:
        problems.append(f"{side.name}: keys were used twice in round {number}")
    if requests == 0:
        raise RuntimeError(f"{side.name} answered nothing")
    side.server.forget_log()
    side.server.await_quiet()
    return Round(
        requests=requests,
        rate=requests / seen["seconds"],
        cpu_us=cpu / requests * 1e6,
        database_us=database / requests * 1e6,
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        load_busy=busy,
        stolen=stolen,
        rows=rows,
        rows_after=after,
    )


def wrk(url: str, keys: Path | None, connections: int, seconds: float) -> dict[str, float]:
    """What load.lua prints at the end."""
    words = _words(url, keys, connections, seconds)
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - fixed words
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def loading(url: str, keys: Path, connections: int, *, pause_ms: int | None = None) -> Generator[dict[str, float]]:
    """Load until the block ends; then what was seen is filled in, as `wrk` answers it, with the rate.

    ``pause_ms``: what each connection waits before it asks again; None: nothing.
    """
    words = _words(url, keys, connections, LOADING_SECONDS_MAX)
    if pause_ms is not None:
        words.append(str(pause_ms))
    seen: dict[str, float] = {}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - fixed words
        try:
            yield seen
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
    seen |= json.loads(output.splitlines()[-1])
    seen["rate"] = seen["requests"] / seen["seconds"]


def _words(url: str, keys: Path | None, connections: int, seconds: float) -> list[str]:
    words = [shutil.which("wrk") or "wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s"]
    return [*words, "-s", str(HERE / "load.lua"), url, "--", *([] if keys is None else [str(keys)])]


def same_keys(place: Place, count: int = 64, first: int = 0) -> Callable[[int], Path]:
    """For hits: the same keys in each round."""
    path = place.keys_file(first, count)
    return lambda _: path


def _warmed(side: Side, plan: Plan) -> int:
    """One round that does not count; its requests."""
    keys = None if side.keys is None else side.keys(-1)
    seen = wrk(side.server.url + side.path, keys, side.connections or plan.connections, WARM_SECONDS)
    side.server.forget_log()
    side.server.await_quiet()
    return int(seen["requests"])


def _marks(place: Place) -> dict[str, int]:
    """How far each process has written, once the rows of what was before are all there."""
    deadline = time.monotonic() + ROWS_SECONDS
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        marks: dict[str, int] = dict(connection.execute(MARKS).fetchall())
        while time.monotonic() < deadline:
            time.sleep(SETTLED_SECONDS)
            before, marks = marks, dict(connection.execute(MARKS).fetchall())
            if marks == before:
                break
    return marks


def _rows(place: Place, marks: dict[str, int], expected: int) -> tuple[int, float]:
    """How many rows were written since, and after how many seconds they were all there."""
    began = time.monotonic()
    values = {"runs": list(marks), "marks": list(marks.values())}
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        before, there = -1, 0.0
        while True:
            now = time.monotonic() - began
            row = connection.execute(ROWS, values).fetchone()
            rows = int(row[0]) if row else 0
            there = there or (now if rows >= expected else 0.0)
            # Those that were in flight at the load's end come last, uncounted by it.
            if (there and rows == before and now > there + SETTLED_SECONDS) or now > ROWS_SECONDS:
                return rows, there or now
            before = rows
            time.sleep(0.01)


def table_of(figures: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """The medians of each side, with the lowest and highest rate, for the results."""
    table: dict[str, dict[str, float]] = {}
    for name, of_side in figures.items():
        fields = ("rate", "cpu_us", "database_us", "p50_ms", "p99_ms", "load_busy", "stolen", "rows_after")
        low, high = of_side.spread("rate")
        table[name] = {each: of_side.median(each) for each in fields} | {"low": low, "high": high}
        table[name]["requests"] = sum(each.requests for each in of_side.rounds)
        table[name]["warmed"] = of_side.warmed
        table[name]["rows"] = sum(each.rows or 0 for each in of_side.rounds)
    return table


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
