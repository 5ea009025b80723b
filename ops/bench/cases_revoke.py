"""(f) how long a revoke takes under full load on two workers, and when one of them is cut off."""

import json
import signal
import statistics
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from os import kill
from typing import Any

import machine
from bench import Bench, say
from cases_routes import everywhere
from load import loading, percentile, same_keys
from seed import Place
from servers import Server, serving
from wire import Wire, one_to_each_worker

KEYS = 999  # one account's, in a database of their own: the others keep theirs
BUSY = 64
LEASE_SECONDS = 2.0
UNHURRIED_MS = 1  # an answer of a server that has time
OK, REFUSED, UNAVAILABLE = 200, 401, 503


def revoke(bench: Bench) -> dict[str, Any]:
    """(f)."""
    place = bench.place(KEYS)
    count, partitions = (40, 1) if bench.quick else (400, 5)
    numbers = iter(range(BUSY + 1, KEYS))
    with (
        everywhere(bench.postmaster),
        serving(
            "keyledger",
            place,
            data=bench.data,
            cores=machine.BOTH_CORES,
            workers=2,
            failed_attempts_per_minute=1_000_000,
        ) as server,
    ):
        admin = next(iter(place.keys(BUSY, 1)))[1]
        wires = list(one_to_each_worker(server.port, 2, admin).values())
        say(f"(f) {count} revokes without load")
        quiet = [_revoked(bench, place, next(numbers), wires, admin) for _ in range(count // 4)]
        say(f"(f) {count} revokes under full load")
        with _loaded(bench, server, place) as load:
            busy = [_revoked(bench, place, next(numbers), wires, admin) for _ in range(count)]
        say(f"(f) {count} revokes under half of that load")
        with _loaded(bench, server, place, pause_ms=_pause_for_half(bench, load["rate"])) as half_load:
            half_busy = [_revoked(bench, place, next(numbers), wires, admin) for _ in range(count)]
        say(f"(f) {partitions} revokes with one worker stopped")
        stopped = [_partitioned(bench, place, next(numbers), wires, admin, server) for _ in range(partitions)]
        for wire in wires:
            wire.close()
    slowest = max(seconds for seconds, _ in stopped)
    bench.check(f"a revoke beside a stopped worker took {slowest:.2f} s", slowest <= LEASE_SECONDS + 0.5)
    return {
        "quiet": _spread([seconds for seconds, _ in quiet]),
        "busy": _spread([seconds for seconds, _ in busy]),
        "busy_waited": _spread([waited for _, waited in busy]),
        "half_busy": _spread([seconds for seconds, _ in half_busy]),
        "load": load,
        "half_load": half_load,
        "stopped": [seconds for seconds, _ in stopped],
        "recovered": [seconds for _, seconds in stopped],
    }


def _revoked(bench: Bench, place: Place, turn: int, wires: list[Wire], admin: str) -> tuple[float, float]:
    """A key that both workers know, revoked through one of them: the revoke's seconds, and those it says it waited."""
    ((key_id, key),) = place.keys(turn, 1)
    for wire in wires:
        status = wire.ask(wire.request("/auth/forward", key)).status
        bench.check(f"a good key was answered {status}", status == OK)
    through = wires[turn % len(wires)]
    reply = through.ask(through.request(f"/api/keys/{key_id}/revoke", admin, "POST"))
    while reply.status != OK:
        bench.problems.append(f"a revoke was answered {reply.status}: {reply.body.decode()}")
        time.sleep(0.1)  # it is a problem already, and asked again for what follows
        reply = through.ask(through.request(f"/api/keys/{key_id}/revoke", admin, "POST"))
    for wire in wires:
        status = wire.ask(wire.request("/auth/forward", key)).status
        bench.check(f"a revoked key was answered {status}", status == REFUSED)
    return reply.seconds, json.loads(reply.body)["receipt"]["waited_ms"] / 1000


def _partitioned(  # noqa: PLR0913, PLR0917 - as above
    bench: Bench, place: Place, turn: int, wires: list[Wire], admin: str, server: Server
) -> tuple[float, float]:
    """As above with the other worker stopped: the revoke's seconds, and those until that worker served again."""
    ((key_id, key),) = place.keys(turn, 1)
    for wire in wires:
        wire.ask(wire.request("/auth/forward", key))
    here, there = wires
    stopped = _worker_of(there, admin, server)
    kill(stopped, signal.SIGSTOP)
    try:
        reply = here.ask(here.request(f"/api/keys/{key_id}/revoke", admin, "POST"))
        bench.check(f"a revoke was answered {reply.status}", reply.status == OK)
        there.send(there.request("/auth/forward", key))
        began = time.perf_counter()
    finally:
        kill(stopped, signal.SIGCONT)
    statuses = [there.receive(began).status]
    while statuses[-1] == UNAVAILABLE and time.perf_counter() - began < 10:  # noqa: PLR2004 - seconds
        statuses.append(there.ask(there.request("/auth/forward", key)).status)
    bench.check(f"a worker that was cut off answered {statuses[-1]}", statuses[-1] == REFUSED)
    return reply.seconds, time.perf_counter() - began


def _worker_of(wire: Wire, admin: str, server: Server) -> int:
    """The process behind a connection."""
    pid = int(wire.ask(wire.request("/pid", admin)).body)
    if pid not in server.workers():
        raise RuntimeError(f"{pid} is no worker of the server")
    return pid


def _pause_for_half(bench: Bench, rate: float) -> int:
    """The milliseconds between the questions of a connection that make half of that rate of all connections."""
    return max(1, round(2 * bench.plan.connections / rate * 1000) - UNHURRIED_MS)


@contextmanager
def _loaded(bench: Bench, server: Server, place: Place, *, pause_ms: int | None = None) -> Generator[dict[str, float]]:
    """Good traffic on as many connections as elsewhere, as fast as it goes; what it did is filled in at the end.

    ``pause_ms``: as `loading` has it.
    """
    keys, connections = same_keys(place, BUSY)(0), bench.plan.connections
    with loading(server.url + "/auth/forward", keys, connections, pause_ms=pause_ms) as seen:
        time.sleep(1)  # until all connections ask
        yield seen
    server.forget_log()
    for name in ("refused", "broken"):
        bench.check(f"{seen[name]:.0f} requests of the load {name}", not seen[name])


def _spread(seconds: Iterable[float]) -> dict[str, float]:
    values = list(seconds)
    return {
        "count": len(values),
        "p50": statistics.median(values),
        "p99": percentile(values, 0.99),
        "max": max(values),
    }
