"""Measure a peer: requests a second, statements and writes per request, and how long a revoked key is still accepted.

`.venv/bin/python ops/bench/peers/measure.py PEER …` starts its own PostgreSQL in --data and prints a line of JSON for
each peer. Needs wrk, and `run.py PEER install` before. A driver with a database of its own calls the functions.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psycopg
from contract import Prepared, Revoked, SampleKey
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from run import DATA, HERE, PEERS
from target import START_SECONDS, STOP_SECONDS, Target, ask, connect_each, get, prepare, serving

sys.path.insert(0, str(HERE.parents[2]))
from infrastructure.embedded_postgres import EmbeddedPostgres

WARM_SECONDS = 1.0  # per worker
BOUND_SECONDS = 90.0  # of a revocation's measurement
QUIET_SECONDS = 15.0  # without an accepted answer, after which a revocation counts as complete
POLL_SECONDS = 0.005
POLLERS_PER_WORKER = 2
STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
TARGET = re.compile(r'(SELECT\b.*? FROM|UPDATE|INSERT INTO|DELETE FROM)\s+"?(\w+)', re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Rate:
    """What wrk saw; `written_per_request` counts rows inserted, updated and deleted in the database meanwhile."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    written_per_request: float


@dataclass(frozen=True)
class Statements:
    """Per request, from PostgreSQL's own log: the mean of a key's first requests and of its later ones.

    `one_request` is what the last request sent, in order.
    """

    first: float
    later: float
    later_writes: float
    one_request: list[str]


@dataclass(frozen=True)
class Revocation:
    """For each worker, the seconds from the revoke's return to the start of the last request that was still accepted.

    0 means that none was. At the bound the figure is only a lower limit. `accepted_by_new_server`: a server started
    afterwards takes the key, so the database itself says that the key is good.
    """

    seconds: list[float]
    at_bound: bool
    accepted_by_new_server: bool


def rate(  # noqa: PLR0913 - one load has this many dials
    target: Target, prepared: Prepared, *, port: int, workers: int, connections: int, seconds: int
) -> Rate:
    """Load a warm server with the sample's keys in turn."""
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as values:
        values.writelines(f"{key.value}\n" for key in prepared.keys)
        values.flush()
        before = _rows_written(target)
        with serving(target, port, workers):
            warm = _warm(port, prepared, workers)
            seen = _wrk(port, connections, seconds, prepared.header, values.name)
        written = _rows_written(target) - before  # read once the server's connections have closed and told their counts
    return Rate(
        requests_per_second=round(seen["requests"] / seen["seconds"], 1),
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        refused=int(seen["refused"]),
        broken=int(seen["broken"]),
        written_per_request=round(written / (warm + seen["requests"]), 3),
    )


def statements(target: Target, prepared: Prepared, *, port: int, log: Path, rounds: int = 5) -> Statements:
    """Count what one worker sends for requests made one after another; `log` is the server's log. Needs a superuser."""
    database = sql.Identifier(str(conninfo_to_dict(target.conninfo)["dbname"]))
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(database))
        try:
            with serving(target, port, 1):
                keys = prepared.keys[:10]
                first = _logged(log, port, prepared.header, keys)
                later = [_logged(log, port, prepared.header, keys) for _ in range(rounds)]
                last = _logged(log, port, prepared.header, keys[:1])
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} RESET log_statement").format(database))
    flat = [one for lines in later for one in lines]
    writes = [one for one in flat if one.startswith(("INSERT", "UPDATE", "DELETE"))]
    requests = rounds * len(keys)
    return Statements(len(first) / len(keys), len(flat) / requests, len(writes) / requests, last)


def revocation(target: Target, prepared: Prepared, *, port: int, workers: int = 2) -> Revocation:
    """Poll every worker with one key, revoke it from another process, and poll on until the answers are refusals."""
    key = prepared.keys[-1]
    headers = {prepared.header: key.value}
    accepted_ns: dict[int, int] = {}
    stop = threading.Event()
    with serving(target, port, workers):
        dealt = connect_each(port, workers, POLLERS_PER_WORKER)
        pollers = [
            threading.Thread(target=_poll, args=(connection, pid, headers, accepted_ns, stop), daemon=True)
            for connection, pid in dealt
        ]
        for poller in pollers:
            poller.start()
        try:
            deadline = time.monotonic() + START_SECONDS
            while len(accepted_ns) < workers:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{target.name} refused a valid key")
                time.sleep(0.1)
            time.sleep(2)  # let caches settle, and the revoke fall at no special moment of theirs
            revoked = Revoked(**json.loads(target.answer("revoke", key.key_id)))
            at_bound = not _refused_at_last(revoked.returned_ns, accepted_ns, pollers)
        finally:
            stop.set()
            for poller in pollers:
                poller.join(STOP_SECONDS)
            for connection, _ in dealt:
                connection.close()
    with serving(target, port, 1):
        again = get(port, "/", headers) is not None
    seconds = [max(0.0, round((last - revoked.returned_ns) / 1e9, 4)) for _, last in sorted(accepted_ns.items())]
    return Revocation(seconds, at_bound, again)


def _refused_at_last(returned_ns: int, accepted_ns: Mapping[int, int], pollers: Sequence[threading.Thread]) -> bool:
    """True once nothing was accepted for QUIET_SECONDS, False when BOUND_SECONDS went by first."""
    while True:
        now = time.monotonic_ns()
        if now > max(*accepted_ns.values(), returned_ns) + QUIET_SECONDS * 1e9:
            return True
        if now > returned_ns + BOUND_SECONDS * 1e9:
            return False
        if not all(poller.is_alive() for poller in pollers):
            raise RuntimeError("a connection that was being polled was closed")
        time.sleep(0.1)


def _warm(port: int, prepared: Prepared, workers: int) -> int:
    """Present every key of the sample to every worker, for WARM_SECONDS at least; gives the number of requests."""
    requests = 0
    for connection, _ in connect_each(port, workers, each=1):
        deadline = time.monotonic() + WARM_SECONDS
        while time.monotonic() < deadline:
            for key in prepared.keys:
                ask(connection, "/", {prepared.header: key.value})
            requests += len(prepared.keys)
        connection.close()
    return requests


def _wrk(port: int, connections: int, seconds: int, header: str, values: str) -> dict[str, float]:
    """What spread.lua prints at the end."""
    words = [
        shutil.which("wrk") or "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "-s",
        str(HERE / "spread.lua"),
    ]
    words += [f"http://127.0.0.1:{port}/", "--", header, values]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - fixed words
    return json.loads(done.stdout.splitlines()[-1])


def _poll(
    connection: HTTPConnection, pid: int, headers: dict[str, str], accepted_ns: dict[int, int], stop: threading.Event
) -> None:
    while not stop.wait(POLL_SECONDS):
        started_ns = time.monotonic_ns()
        try:
            accepted = ask(connection, "/", headers) is not None
        except (OSError, HTTPException):
            return  # seen by the caller, which counts the living
        if accepted:
            accepted_ns[pid] = max(accepted_ns.get(pid, 0), started_ns)


def _logged(log: Path, port: int, header: str, keys: Sequence[SampleKey]) -> list[str]:
    """The statements that PostgreSQL logs while each key makes one request, shortened to verb and table."""
    offset = log.stat().st_size
    for key in keys:
        if get(port, "/", {header: key.value}) is None:
            raise RuntimeError("a valid key was refused")
    time.sleep(0.3)  # what a server still does after its answer belongs to the request
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(offset)
        entries = re.split(r"\n(?!\t)", lines.read())
    found = [STATEMENT.search(entry.replace("\n\t", " ")) for entry in entries]
    return [_short(match[1]) for match in found if match]


def _short(statement: str) -> str:
    match = TARGET.match(statement)
    return f"{match[1].split()[0].upper()} {match[2]}" if match else statement[:40]


def _rows_written(target: Target) -> int:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        row = connection.execute(
            "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"
        ).fetchone()
    return int(row[0]) if row else 0


def _measure(name: str, options: argparse.Namespace, postgres: EmbeddedPostgres) -> dict[str, object]:
    database = name.replace("-", "_")
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        for words in ("DROP DATABASE IF EXISTS {} WITH (FORCE)", "CREATE DATABASE {}"):
            connection.execute(sql.SQL(words).format(sql.Identifier(database)))  # type: ignore[arg-type] - literals above
    target = Target(name, options.data, make_conninfo(postgres.conninfo, dbname=database))
    prepared = prepare(target, options.keys, options.sample)
    seen = rate(
        target,
        prepared,
        port=options.port,
        workers=options.workers,
        connections=options.connections,
        seconds=options.seconds,
    )
    log = options.data / "postgresql" / "postgres.log"
    counted = statements(target, prepared, port=options.port, log=log)
    revoked = revocation(target, prepared, port=options.port)
    return {
        "peer": name,
        "keys": options.keys,
        "workers": options.workers,
        "rate": asdict(seen),
        "statements": asdict(counted),
        "revocation": asdict(revoked),
    }


def main() -> None:
    """Measure the named peers, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help="all of `run.py list` when none is named")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--port", type=int, default=18700)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    options.data = options.data.resolve()
    with EmbeddedPostgres(options.data / "postgresql") as postgres:
        for name in options.peers or PEERS:
            print(json.dumps(_measure(name, options, postgres)), flush=True)


if __name__ == "__main__":
    main()
