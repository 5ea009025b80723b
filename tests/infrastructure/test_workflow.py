"""The workflow engine on PostgreSQL: each reaction once, whatever crashes, and what fails is on record."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import psycopg
import pytest
import structlog

from application.ledger import Ledger
from application.rotation import RotationWorkflow
from application.workflow import WorkflowManagement
from domain.account import Account
from domain.api_key import ApiKey, GraceStart, RevocationReason
from domain.events import Aggregate, Origin
from domain.ids import WebhookEndpointId
from domain.key_status import KeyStatus
from domain.rotation import Rotation
from domain.workflow import RETRIES, Process, ProcessState
from infrastructure.postgres.pool import Database
from infrastructure.postgres.workflow import PostgresProcesses
from infrastructure.workflow import LoggedBoundary
from tests.kit.books import rebuilt
from tests.kit.builders import NOON, SettableClock, a_key, account_id, an_account, entropy, key_id, origin
from tests.kit.rotations import NONE
from tests.kit.workflow import Crashed, CrashingBoundary, Scheduler, open_ledger

DAY = timedelta(days=1)
ROTATION = f"rot_{key_id(1).removeprefix('key_')}"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOON)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database) as opened:
        opened.append(an_account())
        opened.append(a_key(number=1))
        yield opened


def story(conninfo: str, stream: str = ROTATION) -> list[str]:
    """The topics of a stream, without when it is looked at."""
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT topic FROM ledger.events WHERE stream_id = %s AND topic <> 'workflow.scheduled' ORDER BY version",
            (stream,),
        )
        return [topic for (topic,) in rows]


class FailingWorkflow(RotationWorkflow):
    """A rotation whose reactions fail while they are told to."""

    failing = True

    def react(self, process: Process, *, by: Origin) -> Sequence[Aggregate]:
        """Fails, or reacts."""
        if self.failing:
            raise ZeroDivisionError("as told")
        return super().react(process, by=by)


def failing(database: Database, clock: SettableClock) -> tuple[Scheduler, FailingWorkflow]:
    """A scheduler whose rotations fail."""
    made: list[FailingWorkflow] = []

    def workflows(ledger: Ledger) -> Sequence[FailingWorkflow]:
        plain = Scheduler(database, clock=clock)
        made.append(FailingWorkflow(ledger=ledger, usage=plain.usage, successors=PostgresProcesses(database)))
        return made

    return Scheduler(database, clock=clock, workflows=workflows), made[0]


def test_a_key_that_falls_due_is_told_of_and_reminded_of(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Notice at 90 days, reminders on day 7, 14, 30, 60; each once, however often the sweep runs."""
    del ledger
    scheduler = Scheduler(database, clock=clock)
    for day in range(160):
        clock.at = NOON + day * DAY
        scheduler.sweep()
        scheduler.sweep()
    assert story(conninfo) == ["rotation.began", "rotation.notified", *["rotation.reminded"] * 4]
    assert story(conninfo, key_id(1)) == ["key.created", "key.rotation_due"]


def test_a_service_that_was_away_tells_what_it_missed_once(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Asleep over the due date and three reminders, the owner gets one message; asleep over two, one reminder."""
    del ledger
    scheduler = Scheduler(database, clock=clock)
    clock.at = NOON + 125 * DAY
    scheduler.sweep()
    assert story(conninfo) == ["rotation.began", "rotation.notified"]
    clock.at = NOON + 230 * DAY
    scheduler.sweep()
    assert story(conninfo)[2:] == ["rotation.reminded"]


def test_a_key_that_was_flagged_too_early_is_told_of_on_its_day(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """A clock that was ahead flags it, and it is not flagged again: a timer waits for the day."""
    del ledger
    scheduler = Scheduler(database, clock=clock)
    clock.at = NOON + 91 * DAY
    scheduler.deadlines.flag_rotation()
    clock.at = NOON + DAY
    scheduler.sweep()
    assert story(conninfo) == ["rotation.began", "rotation.postponed"]
    clock.at = NOON + 90 * DAY
    scheduler.sweep()
    assert story(conninfo)[2:] == ["rotation.notified"]


def test_a_rotation_whose_successor_is_revoked_unused_goes_on(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """It is found though no event of its own key tells it, and once; the key is due, and its owner reminded."""
    scheduler = Scheduler(database, clock=clock)
    clock.at = NOON + 90 * DAY
    scheduler.sweep()
    key = ledger.load(ApiKey, key_id(1))
    successor = a_key(number=2, at=clock.at, replaces=key)
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(clock.at))
    ledger.append(key, successor)
    scheduler.sweep()
    successor.revoke(reason=RevocationReason.OTHER, note=None, by=origin(clock.at))
    ledger.append(successor)
    scheduler.sweep()
    scheduler.sweep()
    assert scheduler.engine.run() == 0
    assert story(conninfo) == [
        "rotation.began", "rotation.notified", "rotation.successor_created", "rotation.successor_revoked",
    ]  # fmt: skip
    assert ledger.load(ApiKey, key_id(1)).status(clock.at) is KeyStatus.ROTATION_DUE
    clock.advance(7 * DAY)
    scheduler.sweep()
    assert story(conninfo)[4:] == ["rotation.reminded"]


def test_a_successor_that_was_revoked_and_changes_nothing_is_not_looked_at_for_ever(
    database: Database, ledger: Ledger, clock: SettableClock
) -> None:
    """The old key has its end, or the successor one of its own: no look is asked for, round after round."""
    scheduler = Scheduler(database, clock=clock)
    for number, starts in ((1, GraceStart.NOW), (11, GraceStart.FIRST_USE)):
        key = ledger.load(ApiKey, key_id(1)) if number == 1 else a_key(number=number)
        successor = a_key(number=number + 1, replaces=key)
        key.rotate(key_id(number + 1), grace=DAY, grace_starts=starts, by=origin())
        if starts is GraceStart.FIRST_USE:
            successor.rotate(key_id(number + 2), grace=timedelta(), grace_starts=GraceStart.NOW, by=origin())
        successor.revoke(reason=RevocationReason.OTHER, note=None, by=origin())
        ledger.append(key, successor)
    scheduler.sweep()
    assert scheduler.engine.run() == 0


def test_a_key_is_not_retired_for_the_time_that_its_account_was_suspended(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Silent while nobody could use it, it lives; silent for eight days after that, it is retired."""
    scheduler = Scheduler(database, clock=clock)
    key = ledger.load(ApiKey, key_id(1))
    key.rotate(key_id(2), grace=60 * DAY, grace_starts=GraceStart.NOW, by=origin(clock.at))
    ledger.append(key, a_key(number=2, replaces=key))
    with psycopg.connect(conninfo) as connection:
        for used in (key_id(1), key_id(2)):
            connection.execute("INSERT INTO usage.totals VALUES (%s, 1, 0, %s, %s)", (used, clock.at, clock.at))
    ledger.change(Account, account_id(), lambda account: account.suspend(by=origin(clock.at)))
    for day in range(1, 19):
        clock.at = NOON + day * DAY
        if day == 11:
            ledger.change(Account, account_id(), lambda account: account.reinstate(by=origin(clock.at)))
        scheduler.sweep()
        assert ledger.load(ApiKey, key_id(1)).status(clock.at) is KeyStatus.ROTATING, day
    clock.at = NOON + 19 * DAY
    scheduler.sweep()
    assert story(conninfo)[-2:] == ["rotation.retired", "rotation.closed"]
    assert ledger.load(ApiKey, key_id(1)).status(clock.at) is KeyStatus.REVOKED


@pytest.mark.parametrize("edge", ["before", "after"])
def test_a_reaction_takes_effect_once_wherever_it_crashes(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock, edge: str
) -> None:
    """Crashed at the first commit, and gone on with by another scheduler: the same story as without."""
    del ledger
    crashing = Scheduler(database, clock=clock, boundary=CrashingBoundary(crashes=lambda at: at.startswith(edge)))
    clock.at = NOON + 90 * DAY
    with pytest.raises(Crashed):
        crashing.sweep()
    assert bool(story(conninfo)) == (edge == "after")
    Scheduler(database, clock=clock).sweep()
    assert story(conninfo) == ["rotation.began", "rotation.notified"]


def test_a_failing_reaction_is_retried_then_stuck_then_resumed(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Each failure is on record with its error and its next try; a stuck process waits for a hand, and goes on."""
    scheduler, workflow = failing(database, clock)
    processes = PostgresProcesses(database)
    clock.at = NOON + 90 * DAY
    scheduler.sweep()
    for wait in RETRIES:
        failed = processes.find(ROTATION)
        assert failed is not None
        assert failed.state is ProcessState.RUNNING
        assert failed.error == "ZeroDivisionError: as told"
        assert [timer.due_at - clock.at for timer in failed.timers] == [wait]
        clock.advance(wait)
        scheduler.sweep()
    assert [view.state for view in processes.page(state=ProcessState.STUCK, workflow=None, before=None, limit=9)] == [
        ProcessState.STUCK
    ]
    clock.advance(30 * DAY)
    scheduler.sweep()
    assert story(conninfo)[-1] == "workflow.stuck"
    workflow.failing = False
    for second in range(3):  # an operator in doubt
        WorkflowManagement(ledger=ledger).resume(ROTATION, by=origin(clock.at + timedelta(seconds=second)))
    clock.advance(timedelta(seconds=3))
    scheduler.sweep()
    assert story(conninfo)[-2:] == ["workflow.resumed", "rotation.notified"]
    assert not scheduler.boundary.stops


def test_a_rotation_that_has_failed_is_not_looked_at_for_its_successor_s_use(
    database: Database, conninfo: str, ledger: Ledger
) -> None:
    """It waits for its retry, and is awaited again once it has come through."""
    key, processes = a_key(number=2), PostgresProcesses(database)
    key.rotate(key_id(3), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin())
    successor, rotation = a_key(number=3), Rotation.of(key, by=origin())
    rotation.look(key, NONE, by=origin())
    ledger.append(successor, key, rotation)
    assert processes.awaited(9) == []
    with psycopg.connect(conninfo) as connection:
        connection.execute("INSERT INTO usage.totals VALUES (%s, 1, 0, now(), now())", (successor.key_id,))
    assert processes.awaited(9) == [rotation.id]
    rotation.fail("OperationalError: the database went away", retry_after=DAY, by=origin())
    ledger.append(rotation)
    assert processes.awaited(9) == []
    rotation.recover(by=origin())
    ledger.append(rotation)
    assert processes.awaited(9) == [rotation.id]


def test_a_successor_that_was_used_as_its_last_hand_over_failed_is_not_awaited_for_ever(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Taken back all the same, its use settles later: no look is asked for, round after round."""
    clock.at = NOON + 90 * DAY
    key, by, processes = ledger.load(ApiKey, key_id(1)), origin(clock.at), PostgresProcesses(database)
    rotation = Rotation.of(key, by=by)
    rotation.look(key, NONE, by=by, hand_over_to=WebhookEndpointId.from_entropy(entropy(1)))
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=by)
    successor = a_key(number=2, replaces=key)
    assert rotation.offer(key, by=by)
    ledger.append(key, successor, rotation)
    with psycopg.connect(conninfo) as connection:
        connection.execute("INSERT INTO usage.totals VALUES (%s, 1, 0, now(), now())", (successor.key_id,))
    assert processes.awaited(9) == [rotation.id]
    successor.revoke(reason=RevocationReason.UNUSED, note=None, by=by)
    key.withdraw_rotation(by=by)
    rotation.end_attempt(1, key, error="gone (410)", final=True, by=by)
    ledger.append(key, successor, rotation)
    assert processes.awaited(9) == []
    with psycopg.connect(conninfo) as connection:
        stored = connection.execute("SELECT awaits FROM workflow.processes").fetchall()
        connection.execute("UPDATE workflow.processes SET awaits = %s", (successor.key_id,))
    assert stored == [(None,)]
    assert processes.awaited(9) == [], "as the previous release left it"


def test_a_cancelled_process_does_nothing_more(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Cancelled is the end, and takes the timers away."""
    scheduler = Scheduler(database, clock=clock)
    clock.at = NOON + 90 * DAY
    scheduler.sweep()
    WorkflowManagement(ledger=ledger).cancel(ROTATION, by=origin(clock.at))
    clock.advance(40 * DAY)
    scheduler.sweep()
    assert story(conninfo)[-1] == "workflow.cancelled"
    view = PostgresProcesses(database).find(ROTATION)
    assert view is not None
    assert (view.state, view.timers) == (ProcessState.CANCELLED, ())


def test_a_timer_that_somebody_took_is_not_taken_by_another(
    database: Database, ledger: Ledger, clock: SettableClock
) -> None:
    """Of two sweepers one gets the process; when that one dies, the other does, half a minute later."""
    del ledger
    scheduler = Scheduler(database, clock=clock)
    clock.at = NOON + 90 * DAY
    scheduler.sweep()
    clock.at = NOON + 97 * DAY
    timers = scheduler.engine._timers
    assert list(timers.take(clock.at, 9)) == [ROTATION]
    assert list(timers.take(clock.at, 9)) == []
    clock.advance(timedelta(seconds=30))
    assert list(timers.take(clock.at, 9)) == [ROTATION]


def test_rebuilding_the_views_reacts_to_nothing_and_gives_the_same_rows(
    database: Database, conninfo: str, ledger: Ledger, clock: SettableClock
) -> None:
    """Processes and timers follow from events; how far the engine has come is no view."""
    scheduler = Scheduler(database, clock=clock)
    clock.at = NOON + 90 * DAY
    scheduler.sweep()
    key = ledger.load(type(a_key()), key_id(1))
    successor = a_key(number=2, at=clock.at, replaces=key)
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.NOW, by=origin(clock.at))
    ledger.append(key, successor)
    scheduler.sweep()
    before, after = rebuilt(conninfo)
    assert before == after
    told = story(conninfo)
    scheduler.sweep()
    assert story(conninfo) == told
    assert ledger.load(Rotation, ROTATION).step == "overlap"


def test_a_workflow_that_stands_still_is_said_once() -> None:
    """However often it is tried; another position, another reason and another workflow are said, too."""
    boundary = LoggedBoundary()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            boundary.stopped("rotation", 7, ValueError("unreadable"))
        boundary.stopped("rotation", 7, ValueError("unreadable still"))
        boundary.stopped("rotation", 9, ValueError("unreadable still"))
        boundary.stopped("another", 9, ValueError("unreadable still"))
    assert [(line["workflow"], line["position"]) for line in lines] == [
        ("rotation", 7), ("rotation", 7), ("rotation", 9), ("another", 9),
    ]  # fmt: skip
