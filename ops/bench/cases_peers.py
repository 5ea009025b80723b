"""(c) the peers and Keyledger on one core, in turns; what each does per request, and what a revoke of each is worth."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import machine
import psycopg
from bench import Bench, say
from load import Ratio, Side, alternate, same_keys, table_of
from seed import Place, database
from servers import HERE, Server, serving

sys.path.insert(0, str(HERE / "peers"))
import measure
from contract import Prepared, SampleKey
from measure import revocation, statements
from run import PEERS
from target import Target, get, prepare
from target import serving as serving_peer

KEYS, SAMPLE = 1_000, 64
OURS = ("Keyledger, route", "Keyledger, forward")
PORT = 18_700
FEW = {"keyshield": 2}  # it hashes on the event loop: of 32 connections none has its answer within a round
COUNTERS = """
    SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
           (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables)
"""


@dataclass(frozen=True)
class Ours(Target):
    """Keyledger as the peers' measures see it."""

    place: Place | None = None

    def run(self, verb: str, *words: str) -> list[str]:
        """`serve --port P --workers W`, or `revoke KEY_ID`."""
        if verb == "revoke":
            return [sys.executable, str(HERE / "revoke.py"), *words]
        port, workers = words[1], words[3]
        settings = [f"KEYLEDGER_PORT={port}", f"KEYLEDGER_WORKERS={workers}"]
        return ["env", *settings, sys.executable, str(HERE / "serve.py"), "keyledger"]

    def environment(self) -> dict[str, str]:
        """The service's settings."""
        settings = {"DATABASE_URL": self.conninfo, "LOG_FORMAT": "json", "ACCESS_LOG_DURABILITY": "buffered"}
        settings["SECRET_KEYS"] = self.place.secret.hex() if self.place else ""
        return os.environ | {f"KEYLEDGER_{name}": value for name, value in settings.items()}


def peers(bench: Bench) -> dict[str, Any]:
    """(c)."""
    installed = _installed(bench)
    if bench.quick:
        measure.BOUND_SECONDS, measure.QUIET_SECONDS = 15.0, 6.0
    targets = {name: Target(name, bench.peers, database(bench.conninfo, name.replace("-", "_"))) for name in installed}
    prepared = {name: prepare(target, KEYS, SAMPLE) for name, target in targets.items()}
    place = bench.place(KEYS + 1)  # in a database of its own: one of its keys is revoked
    ours = Ours("keyledger", bench.data, place.conninfo, place)
    sample = [SampleKey(key_id, f"Bearer {key}") for key_id, key in place.keys(KEYS - 1, 1)]
    results = _rates(bench, targets, prepared, place)
    log = bench.data / "postgres.log"
    each: dict[str, dict[str, Any]] = {"keyledger": {}}
    for name, target in targets.items():
        say(f"(c) statements and revocation of {name}")
        counted = statements(target, prepared[name], port=PORT, log=log)
        each[name] = {
            "statements": asdict(counted),
            "revocation": asdict(revocation(target, prepared[name], port=PORT)),
        }
    say("(c) revocation of Keyledger")
    with (bench.data / "logs" / "revocation.log").open("wb") as said, _stderr_to(said.fileno()):
        each["keyledger"]["revocation"] = asdict(revocation(ours, Prepared("Authorization", sample), port=PORT))
    seconds = max(each["keyledger"]["revocation"]["seconds"])
    bench.check(f"Keyledger accepted a revoked key for {seconds} s", seconds == 0)
    return results | {"each": each}


def _rates(bench: Bench, targets: dict[str, Target], prepared: dict[str, Prepared], place: Place) -> dict[str, Any]:
    counters = {name: _counters(target.conninfo) for name, target in targets.items()}
    ours_before = _counters(place.conninfo)
    with ExitStack() as stack:
        service = stack.enter_context(serving("keyledger", place, data=bench.data))
        keys = same_keys(place, SAMPLE)
        sides = [
            Side(OURS[0], service, "/", keys, rows=True),
            Side(OURS[1], service, "/auth/forward", keys, rows=True),
        ]
        for place_in_line, (name, target) in enumerate(targets.items(), 1):
            server = stack.enter_context(_peer(target, PORT + place_in_line))
            file = bench.data / "keys" / f"{name}.keys"
            known = prepared[name]
            file.write_text("".join(f"{known.header}: {key.value}\n" for key in known.keys), encoding="utf-8")
            for key in known.keys:  # a cache that hashes before it remembers takes longer than a warm-up
                get(server.port, "/", {known.header: key.value})
            sides.append(Side(name, server, "/", lambda _, file=file: file, connections=FEW.get(name)))
        say(f"(c) {len(sides)} sides in turns")
        plan = replace(bench.plan, seconds=2, rounds=1) if bench.quick else bench.plan
        figures = alternate(sides, plan, bench.problems)
    table = table_of(figures)
    for name, target in targets.items():
        requests = table[name]["requests"] + table[name]["warmed"]
        table[name] |= _per_request(counters[name], _counters(target.conninfo), requests)
    ours = sum(table[name]["requests"] + table[name]["warmed"] for name in OURS)
    for name in OURS:
        table[name] |= _per_request(ours_before, _counters(place.conninfo), ours)
    return {
        "sides": table,
        "ratios": {name: asdict(Ratio.of(figures[OURS[0]], figures[name])) for name in targets},
        "forward_ratios": {name: asdict(Ratio.of(figures[OURS[1]], figures[name])) for name in targets},
    }


def _installed(bench: Bench) -> list[str]:
    """The peers that are installed, after an attempt with those that were not."""
    found: list[str] = []
    for name, peer in PEERS.items():
        if not (bench.peers / peer.packages).exists():
            say(f"installing the packages of {name} (once; needs the network)")
            words = [sys.executable, str(HERE / "peers" / "run.py"), name, "install", "--data", str(bench.peers)]
            if subprocess.run(words, check=False).returncode:  # noqa: S603 - our own
                shutil.rmtree(bench.peers / peer.packages, ignore_errors=True)
                bench.problems.append(f"{name} cannot be installed")
                continue
        found.append(name)
    return found


@contextmanager
def _peer(target: Target, port: int) -> Generator[Server]:
    """A peer's server on the server's core."""
    with ExitStack() as stack:
        before = set(machine.children_of(os.getpid()))
        with machine.on_cores(machine.SERVER_CORES):
            stack.enter_context(serving_peer(target, port, 1))
        (pid,) = set(machine.children_of(os.getpid())) - before
        yield Server(target.name, port, pid, None)


def _counters(conninfo: str) -> tuple[int, int]:
    """Transactions and rows written in that database so far, as its backends have told."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(COUNTERS).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1] or 0))


def _per_request(before: tuple[int, int], after: tuple[int, int], requests: float) -> dict[str, float]:
    transactions, rows = ((new - old) / requests for new, old in zip(after, before, strict=True))
    return {"transactions": transactions, "rows_written": rows}


@contextmanager
def _stderr_to(descriptor: int) -> Generator[None]:
    """What is started meanwhile says what it says there."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
