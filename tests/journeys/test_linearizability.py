"""No order of events lets a key be accepted after the answer that ended it, whatever breaks meanwhile."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns

import psutil
import psycopg
import pytest

from application.verified_keys import Lease
from tests.journeys.crowd import Crowd, Door, Wire
from tests.journeys.linearizability import ACCEPTED, UNAVAILABLE, History, Operation, Phase, violations
from tests.kit.clock_steps import SteppedClock
from tests.kit.proxy import Line
from tests.kit.service import Service

LEASE = Lease().seconds
PHASE_SECONDS_MAX = 90.0
POLL_SECONDS = 0.1
USES_MIN, ENDS_MIN = 20, 2
"""Fewer accepted uses or revocations leave a phase without meaning."""
OWNERS = 5
WORKERS = 2
WIRES_A_WORKER = 6
CONNECTIONS_MAX = 64
HOUR, DAY = 3600, 86_400
FULL_SECONDS = 240
SILENCES_MAX = 5
REMEMBERED_SECONDS = 0.5
"""In which a server that is about to fall silent comes to remember every key in force."""
FOLLOWERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger follower'"
# Rows that always claim to have applied everything: nobody waits for anybody.
LIE = """
    CREATE FUNCTION serving.lie() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.applied := 9223372036854775807; RETURN NEW; END $$;
    CREATE TRIGGER lie BEFORE INSERT OR UPDATE ON serving.processes FOR EACH ROW EXECUTE FUNCTION serving.lie();
    UPDATE serving.processes SET applied = 0;
"""


@dataclass(slots=True)
class Scene:
    """Two servers on one database, and the crowd in front of both.

    ``first`` has two workers and PostgreSQL; ``second`` is behind a line, and goes by a clock of its own.
    """

    first: Service
    second: Service
    line: Line
    clock: SteppedClock
    history: History
    crowd: Crowd
    chance: random.Random = field(default_factory=lambda: random.Random(20))  # noqa: S311 - a repeatable run

    async def in_phase(self, name: str, *faults: Callable[[], Awaitable[None]], at: str = "") -> Phase:
        """The faults, and as long as it takes until there were uses and revocations enough, at one door or at any."""
        phase = self.history.begin_phase(name)
        deadline = monotonic() + PHASE_SECONDS_MAX
        for fault in faults:
            await fault()
        while (
            self.history.count(phase, "verify", ACCEPTED, at) < USES_MIN
            or self.history.count(phase, "revoke", ACCEPTED) < ENDS_MIN
        ):
            assert monotonic() < deadline, f"{name}: no service\n" + "\n".join(self.history.lines())
            await asyncio.sleep(POLL_SECONDS)
        return phase

    async def until_ended(self, since: int) -> None:
        """Until keys were ended since then."""
        deadline = monotonic() + PHASE_SECONDS_MAX
        while sum(asked > since for asked, _ in self.crowd.waits_ms) < ENDS_MIN:
            assert monotonic() < deadline, "nothing was revoked"
            await asyncio.sleep(POLL_SECONDS)

    async def stop_worker(self, seconds: float) -> None:
        """One worker stands still, at the least so long and until keys were ended; then it goes on."""
        worker = self.chance.choice([*self.first.workers(), *self.second.workers()])
        self.history.faults["stopped workers"] += 1
        began = monotonic_ns()
        worker.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
            if seconds > LEASE:
                await self.until_ended(began)
        finally:
            worker.send_signal(signal.SIGCONT)

    async def silence(self, seconds: float) -> None:
        """The second server's connections to the database swallow everything, at the least so long."""
        self.history.faults["silent lines"] += 1
        self.crowd.going.clear()
        await asyncio.sleep(REMEMBERED_SECONDS)
        self.crowd.quiet.add("second")
        self.line.fall_silent()
        began = monotonic_ns()
        self.crowd.going.set()
        try:
            await asyncio.sleep(seconds)
            if seconds > LEASE:
                await self.until_ended(began)
        finally:
            self.line.speak_again()
            self.crowd.quiet.discard("second")

    async def break_followers(self) -> None:
        """Every process loses the connection that it listens on."""
        self.history.faults["broken followers"] += 1
        # PostgreSQL itself may be broken just now.
        with suppress(psycopg.OperationalError), psycopg.connect(self.first.conninfo, autocommit=True) as connection:
            connection.execute(FOLLOWERS)
        await asyncio.sleep(0.3)

    async def step_clock(self, seconds: int) -> None:
        """The second server's wall clock jumps."""
        if self.clock.is_available:
            self.history.faults["clock steps"] += 1
            self.clock.step(seconds)
        await asyncio.sleep(0.7)

    async def crash_postgres(self) -> None:
        """PostgreSQL ends as by ``pg_ctl stop -m immediate``; the first server starts it again."""
        pid = self.first.postmaster()
        if pid is not None:
            self.history.faults["crashes of PostgreSQL"] += 1
            os.kill(pid, signal.SIGQUIT)
        await asyncio.sleep(1.0)

    async def rest(self) -> None:
        """Nothing happens."""
        await asyncio.sleep(2.0)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """The crowd is at work within, with connections to every worker."""
        users = [
            wire
            for service, door in ((self.first, self.crowd.owners_at[0]), (self.second, self.crowd.owners_at[1]))
            for wire in await wires_to_each(service.workers(), door)
        ]
        try:
            async with self.crowd.at_work(users, OWNERS):
                yield
        finally:
            for wire in users:
                wire.close()
            await asyncio.sleep(POLL_SECONDS)  # the loop closes them


async def wires_to_each(workers: Sequence[psutil.Process], door: Door) -> list[Wire]:
    """So many connections to each worker."""
    found: dict[int, list[Wire]] = {worker.pid: [] for worker in workers}
    spare: list[Wire] = []
    for _ in range(CONNECTIONS_MAX):
        wire = Wire(door)
        # Answered once, a connection is with its worker.
        await wire.request(Operation("verify", "", door.name, 0), b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        pid = next(
            worker.pid
            for worker in workers
            if any(each.raddr and each.raddr.port == wire.local_port for each in worker.net_connections("tcp4"))
        )
        (found[pid] if len(found[pid]) < WIRES_A_WORKER else spare).append(wire)
        if all(len(wires) == WIRES_A_WORKER for wires in found.values()):
            break
    for wire in spare:
        wire.close()
    assert all(found.values()), f"a worker took none of {CONNECTIONS_MAX} connections"
    return [wire for wires in found.values() for wire in wires]


@contextmanager
def scene(place: Path, *, lies: bool = False) -> Iterator[Scene]:
    """All of it, running. With ``lies`` no answer waits for any process, and a lease lasts a minute."""
    shared = {"trusted_proxies": "127.0.0.0/8", "log_format": "json", "settlement_window_seconds": 2}
    shared |= {"lease_seconds": 60} if lies else {}
    clock = SteppedClock(place)
    with (
        Service(place / "first", workers=WORKERS, **shared) as first,
        Line(first.conninfo) as line,
        clock.for_children(),
        Service(
            place / "second",
            database_url=line.conninfo,
            secret_keys_file=first.data_dir / "secret.keys",
            access_log_durability="buffered",
            demo=0,
            **shared,
        ) as second,
    ):
        if lies:
            with psycopg.connect(first.conninfo) as connection:
                connection.execute(LIE)
        history = History()
        crowd = Crowd(history, first.demo_key, [Door("first", first.port), Door("second", second.port)])
        yield Scene(first, second, line, clock, history, crowd)


def report(scene: Scene) -> None:
    """Prints what was done."""
    waits = sorted(wait for _, wait in scene.crowd.waits_ms)
    p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    print(*scene.history.lines(), sep="\n")  # noqa: T201 - figures
    print(f"revocations waited: p50 {p50} ms, p99 {p99} ms, max {waits[-1]} ms")  # noqa: T201 - as above


async def faults_in_turn(scene: Scene) -> None:
    """Each kind of fault in a phase of its own."""
    async with scene.at_work():
        await scene.in_phase("calm", scene.rest)
        await scene.in_phase("stopped shortly", lambda: scene.stop_worker(0.4), lambda: scene.stop_worker(0.4))
        await scene.in_phase("stopped for longer than the lease", lambda: scene.stop_worker(LEASE + 1))
        await scene.in_phase("followers broken", *[scene.break_followers] * 3)
        await scene.in_phase("line silent shortly", lambda: scene.silence(0.5))
        silent = await scene.in_phase("line silent for longer than the lease", lambda: scene.silence(LEASE + 1.5))
        assert scene.history.count(silent, "verify", UNAVAILABLE, "second"), "it never had to refuse"
        steps = [lambda ahead=ahead: scene.step_clock(ahead) for ahead in (2 * HOUR, -DAY, 30 * DAY, 0)]
        await scene.in_phase("clock stepped", *steps, at="second")
        await scene.in_phase("PostgreSQL crashed", scene.crash_postgres)
        await scene.in_phase("calm again", scene.rest, at="second")


async def faults_at_random(scene: Scene, seconds: float) -> None:
    """One or two at once, for a long time."""
    kinds: list[Callable[[], Awaitable[None]]] = [
        lambda: scene.stop_worker(scene.chance.uniform(0.1, 2 * LEASE)),
        lambda: scene.stop_worker(scene.chance.uniform(LEASE, 2 * LEASE)),
        lambda: scene.silence(scene.chance.uniform(0.1, 2 * LEASE)),
        scene.break_followers,
        lambda: scene.step_clock(scene.chance.randrange(-DAY, DAY)),
        scene.crash_postgres,
        scene.rest,
    ]
    end = monotonic() + seconds
    async with scene.at_work():
        for number in range(1000):
            if monotonic() > end:
                break
            both = scene.chance.sample(range(len(kinds)), 2)
            await scene.in_phase(f"mixture {number}", lambda both=both: gathered(kinds[each] for each in both))


async def gathered(faults: Iterator[Callable[[], Awaitable[None]]]) -> None:
    """All at once."""
    await asyncio.gather(*(fault() for fault in faults))


@pytest.mark.journey
def test_no_use_is_accepted_after_the_answer_that_ended_its_key(place: Path, full: bool) -> None:
    """Workers stopped, lines silent, followers cut off, clocks stepped, PostgreSQL crashed: never a stale 200."""
    with scene(place) as running:
        asyncio.run(faults_in_turn(running))
        if full:
            asyncio.run(faults_at_random(running, FULL_SECONDS))
        report(running)
    operations = running.history.operations
    assert [str(violation) for violation in violations(operations)] == []
    unexpected = [each for each in operations if each.outcome == "unexpected"]
    assert unexpected == []
    # Whatever was silent: a lease bounds the wait. The slack is for a machine with more to do than cores.
    assert max(wait for _, wait in running.crowd.waits_ms) <= (LEASE + 5) * 1000


@pytest.mark.journey
def test_the_checker_finds_what_happens_without_the_lease(place: Path) -> None:
    """The same crowd on servers that do not wait and believe for a minute: keys are accepted after their end."""

    async def silent_line(running: Scene) -> None:
        async with running.at_work():
            await running.in_phase("calm", running.rest, at="second")
            # Whether its users come back to a key that was ended meanwhile is chance.
            for _ in range(SILENCES_MAX):
                await running.in_phase("line silent", lambda: running.silence(LEASE + 1.5))
                if accepted_after_revocation(running.history):
                    break

    with scene(place, lies=True) as running:
        asyncio.run(silent_line(running))
        report(running)
    assert accepted_after_revocation(running.history)


def accepted_after_revocation(history: History) -> bool:
    """Whether a use was; tells how many violations there are of all kinds."""
    found = violations(history.operations)
    print(f"{len(found)} violations")  # noqa: T201 - figures
    return any(violation.what.startswith("accepted after its revocation") for violation in found)


def did(kind: str, invoked: int, returned: int | None = None, status: int = 200) -> Operation:
    """An operation of a made-up history; without ``returned`` it was not answered."""
    operation = Operation(kind, "key", "first", invoked)
    if returned is not None:
        operation.answer(status, returned)
    return operation


CREATED = did("create", 0, 1)
HISTORIES: dict[str, tuple[list[Operation], int]] = {
    "in force": ([CREATED, did("verify", 2, 3)], 0),
    "accepted during the revocation": ([CREATED, did("revoke", 2, 6), did("verify", 3, 5), did("verify", 5, 8)], 0),
    "accepted after it": ([CREATED, did("revoke", 2, 4), did("verify", 5, 6)], 1),
    "refused after it": ([CREATED, did("revoke", 2, 4), did("verify", 5, 6, 401)], 0),
    "refused during it": ([CREATED, did("revoke", 2, 6), did("verify", 3, 4, 401)], 0),
    "refused before it": ([CREATED, did("verify", 2, 3, 401), did("revoke", 4, 6)], 1),
    "unavailable": ([CREATED, did("verify", 2, 3, 503)], 0),
    "never answered": ([CREATED, did("verify", 2)], 0),
    "accepted after a revocation without an answer": ([CREATED, did("revoke", 2), did("verify", 5, 6)], 0),
    "accepted after a revocation that failed": ([CREATED, did("revoke", 2, 4, 503), did("verify", 5, 6)], 0),
    "refused long after one": ([CREATED, did("revoke", 2, 4, 503), did("verify", 90, 91, 401)], 0),
    "accepted while disabled": ([CREATED, did("disable", 2, 3), did("verify", 4, 5)], 1),
    "accepted while it is enabled": ([CREATED, did("disable", 2, 3), did("enable", 4, 9), did("verify", 5, 6)], 0),
    "refused while it is enabled": ([CREATED, did("disable", 2, 3), did("enable", 4, 9), did("verify", 5, 6, 401)], 0),
    "refused once enabled": ([CREATED, did("disable", 2, 3), did("enable", 4, 5), did("verify", 6, 7, 401)], 1),
    "enabled, disabled again": (
        [CREATED, did("disable", 2, 3), did("enable", 4, 5), did("disable", 6, 7), did("verify", 8, 9)],
        1,
    ),
    "enabled at some time, perhaps": (
        [CREATED, did("disable", 2, 3), did("enable", 4), did("disable", 6, 7), did("verify", 8, 9)],
        0,
    ),
    "an opaque error": ([CREATED, did("verify", 2, 3, 500)], 1),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_checker_tells_what_can_be_true(name: str) -> None:
    """Made-up histories, right and wrong."""
    operations, wrong = HISTORIES[name]
    assert len(violations(operations)) == wrong
