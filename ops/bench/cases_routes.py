"""(a) a route with and without authentication, (b) `/auth/forward` against a bare answer, (d) one and two workers."""

import os
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any

import machine
from bench import Bench
from load import Ratio, Side, alternate, same_keys, table_of
from servers import serving

KEYS = 1_000


def route(bench: Bench) -> dict[str, Any]:
    """(a): our route with and without its protection; the same route in a host with and without the middleware."""
    place = bench.place(KEYS)
    keys = same_keys(place)
    with ExitStack() as stack:
        service = stack.enter_context(serving("keyledger", place, data=bench.data))
        committing = stack.enter_context(
            serving("keyledger", place, data=bench.data, jobs=False, access_log_durability="commit")
        )
        plain = stack.enter_context(serving("plain", data=bench.data))
        mounted = stack.enter_context(serving("mounted", place, data=bench.data))
        sides = [
            Side("open", service, "/open", keys),
            Side("protected", service, "/", keys, rows=True),
            Side("plain", plain, "/", keys),
            Side("mounted", mounted, "/", keys, rows=True),
            Side("commit", committing, "/", keys, rows=True),
        ]
        figures = alternate(sides, bench.plan, bench.problems)
        bench.check("bcrypt was called", service.get("/counts")[1] == b'{"bcrypt":0}')
    return {
        "sides": table_of(figures),
        "ratio": asdict(Ratio.of(figures["protected"], figures["open"])),
        "ratio_cpu": asdict(Ratio.of(figures["open"], figures["protected"], "cpu_us")),
        "mounted": asdict(Ratio.of(figures["mounted"], figures["plain"])),
        "mounted_cpu": asdict(Ratio.of(figures["plain"], figures["mounted"], "cpu_us")),
    }


def forward(bench: Bench) -> dict[str, Any]:
    """(b)."""
    place = bench.place(KEYS)
    keys = same_keys(place)
    with ExitStack() as stack:
        service = stack.enter_context(serving("keyledger", place, data=bench.data))
        committing = stack.enter_context(
            serving("keyledger", place, data=bench.data, jobs=False, access_log_durability="commit")
        )
        bare = stack.enter_context(serving("bare", data=bench.data))
        sides = [
            Side("bare", bare, "/auth/forward", keys),
            Side("forward", service, "/auth/forward", keys, rows=True),
            Side("commit", committing, "/auth/forward", keys, rows=True),
        ]
        figures = alternate(sides, bench.plan, bench.problems)
    return {
        "sides": table_of(figures),
        "ratio": asdict(Ratio.of(figures["forward"], figures["bare"])),
        "ratio_cpu": asdict(Ratio.of(figures["bare"], figures["forward"], "cpu_us")),
    }


def workers(bench: Bench) -> dict[str, Any]:
    """(d): one and two workers; servers, load and PostgreSQL share the two cores as the system deals them."""
    place = bench.place(KEYS)
    keys = same_keys(place)
    with everywhere(bench.postmaster), ExitStack() as stack:
        one, two = (
            stack.enter_context(serving("keyledger", place, data=bench.data, cores=machine.BOTH_CORES, workers=count))
            for count in (1, 2)
        )
        sides = [
            Side("forward, 1 worker", one, "/auth/forward", keys, rows=True),
            Side("forward, 2 workers", two, "/auth/forward", keys, rows=True),
            Side("route, 1 worker", one, "/", keys, rows=True),
            Side("route, 2 workers", two, "/", keys, rows=True),
        ]
        figures = alternate(sides, bench.plan, bench.problems)
    return {
        "sides": table_of(figures),
        "forward": asdict(Ratio.of(figures["forward, 2 workers"], figures["forward, 1 worker"])),
        "route": asdict(Ratio.of(figures["route, 2 workers"], figures["route, 1 worker"])),
    }


@contextmanager
def everywhere(postmaster: int) -> Generator[None]:
    """The load and PostgreSQL on both cores, until the block ends."""

    def place(cores: Iterable[int]) -> None:
        os.sched_setaffinity(postmaster, cores)  # first: what it starts from now on is there, too
        for pid in machine.tree_of(postmaster):
            with suppress(ProcessLookupError):  # its workers end by themselves
                os.sched_setaffinity(pid, cores)

    place(machine.BOTH_CORES)
    try:
        with machine.on_cores(machine.BOTH_CORES):
            yield
    finally:
        place(machine.LOAD_CORES)
