"""The outbox on PostgreSQL: each event told once, each message delivered at least once under one id, nobody starved."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event as Flag
from threading import Thread

import psycopg
import pytest
import structlog

from application.ledger import Ledger
from application.outbox import Cancelled, Delivered, Failed, Message, MessageState, Outcome
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.outbox import Channel, OutboxDelivery, OutboxFollower
from infrastructure.postgres.migrate import migrate
from infrastructure.postgres.outbox import Attempt, PostgresOutbox
from infrastructure.postgres.pool import Database
from infrastructure.projections import Rebuilder
from infrastructure.system import SystemClock, SystemEntropy
from tests.kit.builders import NOON, SettableClock, a_key, account_id
from tests.kit.databases import read_only
from tests.kit.outbox import KeysCreated, ScriptedCarrier, states
from tests.kit.service import eventually


@pytest.fixture
def recorder(database: Database) -> PostgresRecorder:
    return PostgresRecorder(database, [])


@pytest.fixture
def ledger(recorder: PostgresRecorder) -> Iterator[Ledger]:
    with Ledger(PostgresLedgerFactory(recorder)) as opened:
        yield opened


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


class NotingOutbox(PostgresOutbox):
    """Notes whether an end was to be put on record and the database took no writes."""

    refused = False

    def end(self, message: Message, attempt: Attempt | None, state: MessageState, at: datetime) -> None:
        """As ever."""
        try:
            super().end(message, attempt, state, at)
        except psycopg.errors.ReadOnlySqlTransaction:
            self.refused = True
            raise


class Outbox:
    """One channel on one database."""

    def __init__(
        self, database: Database, recorder: PostgresRecorder, clock: SettableClock, *targets: str, **values: object
    ) -> None:
        self.carrier = ScriptedCarrier()
        source = KeysCreated(*(targets or ("whe_a",)), breaks_on="poison")
        self.channel = Channel("webhook", source, self.carrier, **values)  # type: ignore[arg-type]
        self.follower = OutboxFollower(database, recorder, self.channel, clock)
        self.outbox = NotingOutbox(database)
        self.counted: list[str] = []
        self.clock = clock

    def delivery(self) -> OutboxDelivery:
        """What brings this channel's messages."""
        return OutboxDelivery(
            self.outbox,
            self.channel,
            clock=self.clock,
            entropy=SystemEntropy(),
            count=lambda _, result, __: self.counted.append(result),
        )

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Delivers in the background until the block ends."""
        stop = Flag()
        thread = Thread(target=self.delivery().run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=10)
            assert not thread.is_alive(), "deliveries did not stop"


@pytest.fixture
def made(database: Database, recorder: PostgresRecorder, clock: SettableClock) -> Outbox:
    return Outbox(database, recorder, clock)


def follow(outbox: Outbox) -> None:
    while outbox.follower.catch_up():
        pass


def test_each_event_is_told_once(made: Outbox, ledger: Ledger, conninfo: str) -> None:
    """However often the ledger is read, an event makes one message for each target and kind."""
    ledger.append(a_key(), a_key())
    follow(made)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE outbox.progress SET position = 0")
    follow(made)
    assert states(conninfo) == {("whe_a", 1): "pending", ("whe_a", 2): "pending"}


def test_history_is_told_to_nobody(made: Outbox, ledger: Ledger, conninfo: str) -> None:
    """A channel that is new to a database with a past begins with what happens from then on."""
    ledger.append(a_key())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DELETE FROM outbox.progress")
    follow(made)
    ledger.append(a_key())
    follow(made)
    assert states(conninfo) == {("whe_a", 2): "pending"}


def test_an_upgrade_begins_at_the_head(made: Outbox, ledger: Ledger, conninfo: str) -> None:
    """The migration itself puts every channel behind what a database has already seen."""
    ledger.append(a_key(), a_key())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP SCHEMA outbox CASCADE")
        connection.execute("DELETE FROM public.keyledger_migrations WHERE name = '0013_outbox.sql'")
    assert migrate(conninfo) == ["0013_outbox.sql"]
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT channel, position FROM outbox.progress ORDER BY channel").fetchall()
    assert rows == [("email", 2), ("webhook", 2)]
    follow(made)
    assert states(conninfo) == {}


def test_a_rebuild_tells_nothing_again(
    made: Outbox, ledger: Ledger, database: Database, recorder: PostgresRecorder, conninfo: str
) -> None:
    """Views made anew leave the outbox as it is."""
    ledger.append(a_key())
    follow(made)
    made.delivery().deliver_due()
    Rebuilder(database, recorder, [], []).rebuild()
    follow(made)
    made.delivery().deliver_due()
    assert states(conninfo) == {("whe_a", 1): "delivered"}
    assert len(made.carrier.attempts) == 1


def test_an_event_that_a_channel_cannot_take_stops_it_and_says_so(made: Outbox, ledger: Ledger, conninfo: str) -> None:
    """What came before it in the batch is told with it, once it can be taken; the reason is on record."""
    ledger.append(a_key(), a_key(name="poison"))
    follow(made)
    with psycopg.connect(conninfo) as connection:
        error = connection.execute("SELECT error FROM outbox.progress WHERE channel = 'webhook'").fetchone()
    assert error == ("at position 2: ValueError: a name that this channel cannot take",)
    assert states(conninfo) == {}


def test_attempts_follow_the_schedule_and_then_the_message_has_failed(
    made: Outbox, ledger: Ledger, clock: SettableClock, conninfo: str
) -> None:
    """Each retry comes after its delay, within the jitter, under the same id; the carrier hears of the last once."""
    made.carrier.answer = lambda _: Failed("no", status=500)
    ledger.append(a_key())
    follow(made)
    delivery, at = made.delivery(), []
    for _ in range(400):
        if delivery.deliver_due():
            at.append(clock.now() - NOON)
        clock.advance(timedelta(seconds=1))
    assert at[0] == timedelta()
    assert timedelta(seconds=4.5) <= at[1] <= timedelta(seconds=6.5)
    assert timedelta(minutes=4.5) <= at[2] - at[1] <= timedelta(minutes=5.5, seconds=1)
    assert [each.attempt for each in made.carrier.attempts] == [1, 2, 3]
    assert len({each.id for each in made.carrier.attempts}) == 1
    assert [each.attempt for each in made.carrier.given_up] == [3]
    assert states(conninfo) == {("whe_a", 1): "failed"}
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT number, status, error FROM outbox.attempts ORDER BY number").fetchall()
    assert rows == [(1, 500, "no"), (2, 500, "no"), (3, 500, "no")]


def test_a_receiver_that_asks_for_patience_is_given_it(made: Outbox, ledger: Ledger, clock: SettableClock) -> None:
    """The next attempt comes no sooner than it asked for."""
    made.carrier.answer = lambda _: Failed("busy", status=429, retry_after=timedelta(minutes=2))
    ledger.append(a_key())
    follow(made)
    delivery = made.delivery()
    assert delivery.deliver_due() == 1
    clock.advance(timedelta(minutes=2) - timedelta(seconds=1))
    assert delivery.deliver_due() == 0
    clock.advance(timedelta(seconds=1))
    assert delivery.deliver_due() == 1


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Failed("gone", status=410, permanent=True), "failed"), (Cancelled("no such receiver"), "cancelled")],
)
def test_what_is_final_is_not_tried_again(
    made: Outbox, ledger: Ledger, conninfo: str, outcome: Outcome, state: str
) -> None:
    """A permanent failure and a cancelled message have one attempt."""
    made.carrier.answer = lambda _: outcome
    ledger.append(a_key())
    follow(made)
    made.delivery().deliver_due()
    made.clock.advance(timedelta(days=30))
    assert made.delivery().deliver_due() == 0
    assert states(conninfo) == {("whe_a", 1): state}
    assert len(made.carrier.given_up) == isinstance(outcome, Failed)


def test_a_carrier_that_breaks_costs_one_attempt(made: Outbox, ledger: Ledger, conninfo: str) -> None:
    """An error of its own is a failure like another, and its text does not go on record."""

    def breaks(_: Message) -> Outcome:
        raise RuntimeError("whsec_somebodys")

    made.carrier.answer = breaks
    ledger.append(a_key())
    follow(made)
    assert made.delivery().deliver_due() == 1
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT error FROM outbox.attempts").fetchall() == [("internal error: RuntimeError",)]


def test_a_message_of_a_dead_process_is_due_again_when_its_lease_is_over(
    made: Outbox, ledger: Ledger, clock: SettableClock
) -> None:
    """Under the same id, as the next attempt; not sooner."""
    ledger.append(a_key())
    follow(made)
    taken = made.outbox.take("webhook", now=clock.now(), lease=timedelta(minutes=1), busy_targets=(), busy_accounts=())
    assert taken is not None
    assert made.delivery().deliver_due() == 0
    clock.advance(timedelta(minutes=1))
    assert made.delivery().deliver_due() == 1
    assert [(each.id, each.attempt) for each in made.carrier.attempts] == [(taken.id, 2)]


FAILURE = Attempt(at=NOON, status=500, latency_ms=1, error="no")
LATE_WORDS: dict[str, Callable[[PostgresOutbox, Message], None]] = {
    "a failure": lambda outbox, message: outbox.try_again(message, FAILURE, NOON),
    "the last failure": lambda outbox, message: outbox.end(message, FAILURE, MessageState.FAILED, NOON),
    "a return": lambda outbox, message: outbox.give_back(message, NOON),
}


@pytest.mark.parametrize("late", LATE_WORDS.values(), ids=LATE_WORDS)
def test_who_comes_back_after_its_lease_ends_no_other_s_attempt(
    made: Outbox, ledger: Ledger, clock: SettableClock, conninfo: str, late: Callable[[PostgresOutbox, Message], None]
) -> None:
    """Whatever it has to say of its own attempt but a success: the message is taken by whoever took it since."""

    def take() -> Message:
        lease = timedelta(minutes=1)
        message = made.outbox.take("webhook", now=clock.now(), lease=lease, busy_targets=(), busy_accounts=())
        assert message is not None
        return message

    ledger.append(a_key())
    follow(made)
    first = take()
    clock.advance(timedelta(minutes=1))
    assert take().attempt == 2
    late(made.outbox, first)
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT attempts, state, taken_until, ended_at FROM outbox.messages").fetchone()
    assert row == (2, "pending", NOON + timedelta(minutes=2), None)


def test_two_that_deliver_share_the_messages(
    database: Database, recorder: PostgresRecorder, ledger: Ledger, conninfo: str
) -> None:
    """Of two leaders at the same moment each message is brought by one."""
    outbox = Outbox(database, recorder, SettableClock(SystemClock().now()), *(f"whe_{n}" for n in range(20)))
    ledger.append(*(a_key(owner=account_id(n)) for n in range(5)))
    follow(outbox)
    with outbox.delivering(), outbox.delivering():
        eventually(lambda: set(states(conninfo).values()) == {"delivered"}, "all are delivered")
    assert set(outbox.carrier.times().values()) == {1}
    assert len(outbox.carrier.times()) == 100


def test_a_slow_receiver_starves_nobody(
    database: Database, recorder: PostgresRecorder, ledger: Ledger, conninfo: str
) -> None:
    """While its attempts stand still, no more than its share of them, those to others are made."""
    clock = SettableClock(SystemClock().now())
    outbox = Outbox(database, recorder, clock, "whe_slow", "whe_quick", at_once=8, at_once_per_target=2)
    released = Flag()

    def slow_for_one(message: Message) -> Outcome:
        if message.target == "whe_slow":
            assert released.wait(30)
        return Delivered(200)

    outbox.carrier.answer = slow_for_one
    ledger.append(*(a_key() for _ in range(20)))
    follow(outbox)
    with outbox.delivering():
        eventually(
            lambda: (
                [state for (target, _), state in states(conninfo).items() if target == "whe_quick"]
                == ["delivered"] * 20
            ),
            "the quick one has them all",
        )
        assert sum(each.target == "whe_slow" for each in outbox.carrier.attempts) == 2
        released.set()
        eventually(lambda: set(states(conninfo).values()) == {"delivered"}, "the slow one has them all")


def test_slow_accounts_leave_places_to_the_others(
    database: Database, recorder: PostgresRecorder, ledger: Ledger, conninfo: str
) -> None:
    """Three accounts whose many receivers all stand still hold some of the places; a fourth is served meanwhile."""
    clock = SettableClock(SystemClock().now())
    targets = [f"whe_{number}" for number in range(10)]
    outbox = Outbox(database, recorder, clock, *targets, at_once=8, at_once_per_account=4, at_once_per_target=8)
    released, quick = Flag(), account_id(4)

    def slow_but_for_one(message: Message) -> Outcome:
        if message.account_id != quick:
            assert released.wait(30)
        return Delivered(200)

    outbox.carrier.answer = slow_but_for_one
    slow = [account_id(number) for number in (1, 2, 3)]
    ledger.append(*(a_key(owner=each) for each in slow))
    follow(outbox)
    with outbox.delivering():
        eventually(
            lambda: {each.account_id for each in outbox.carrier.attempts} >= set(slow), "the slow ones are at it"
        )
        ledger.append(*(a_key(owner=quick) for _ in range(3)))
        follow(outbox)
        eventually(lambda: list(states(conninfo).values()).count("delivered") == 30, "the quick one has them all")
        held = Counter(each.account_id for each in outbox.carrier.attempts if each.account_id != quick)
        assert max(held.values()) <= 4
        assert held.total() < 8
        released.set()
        eventually(lambda: set(states(conninfo).values()) == {"delivered"}, "the slow ones have them all")


def test_a_stop_breaks_off_what_is_under_way(
    database: Database, recorder: PostgresRecorder, ledger: Ledger, conninfo: str
) -> None:
    """It is due again at once, and the broken attempt does not count."""
    outbox = Outbox(database, recorder, SettableClock(SystemClock().now()))

    def until_interrupted(_: Message) -> Outcome:
        assert outbox.carrier.interrupted.wait(30)
        return Failed("connection closed")

    outbox.carrier.answer = until_interrupted
    ledger.append(a_key())
    follow(outbox)
    with outbox.delivering():
        eventually(lambda: outbox.carrier.attempts, "the attempt is under way")
    outbox.carrier.answer = lambda _: Delivered(200)
    assert outbox.delivery().deliver_due() == 1
    assert [each.attempt for each in outbox.carrier.attempts] == [1, 1]
    assert states(conninfo) == {("whe_a", 1): "delivered"}


def test_following_and_delivering_live_through_a_database_that_takes_no_writes(
    database: Database, recorder: PostgresRecorder, ledger: Ledger, conninfo: str
) -> None:
    """Both wait; the channel is not stopped for it, and what is due afterwards is told and brought."""
    outbox, stop = Outbox(database, recorder, SettableClock(SystemClock().now())), Flag()
    ledger.append(a_key())
    threads = {
        "tailer_waits_for_database": Thread(target=outbox.follower.run, args=(stop,)),
        "outbox_waits_for_database": Thread(target=outbox.delivery().run, args=(stop,)),
    }
    with structlog.testing.capture_logs() as lines:

        def has_waited(event: str) -> bool:
            return any(line["event"] == event and "read-only" in line["reason"] for line in lines)

        for thread in threads.values():
            thread.start()
        try:
            eventually(lambda: states(conninfo) == {("whe_a", 1): "delivered"}, "both are at work")
            with read_only(conninfo):
                eventually(
                    lambda: all(not each.is_alive() or has_waited(event) for event, each in threads.items()),
                    "both have tried to write",
                )
            assert all(each.is_alive() for each in threads.values())
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("UPDATE outbox.progress SET position = 0")
                connection.execute("DELETE FROM outbox.messages")
            eventually(lambda: states(conninfo) == {("whe_a", 1): "delivered"}, "both go on")
        finally:
            stop.set()
            for thread in threads.values():
                thread.join()
    assert "outbox_stopped" not in [line["event"] for line in lines]


def test_an_attempt_is_put_on_record_when_the_database_takes_writes_again(
    database: Database, recorder: PostgresRecorder, ledger: Ledger, conninfo: str
) -> None:
    """The receiver has it once: what ended meanwhile is on record as that, and is not brought again."""
    outbox, told, released = Outbox(database, recorder, SettableClock(SystemClock().now())), Flag(), Flag()

    def when_released(_: Message) -> Outcome:
        told.set()
        assert released.wait(60)
        return Delivered(200)

    outbox.carrier.answer = when_released
    ledger.append(a_key())
    follow(outbox)
    with structlog.testing.capture_logs() as lines, outbox.delivering():
        assert told.wait(60)
        with read_only(conninfo):
            released.set()
            eventually(lambda: outbox.outbox.refused, "the record was tried")
        eventually(lambda: states(conninfo) == {("whe_a", 1): "delivered"}, "it is on record")
    assert len(outbox.carrier.attempts) == 1
    assert "outbox_lost_an_attempt" not in [line["event"] for line in lines]


def test_what_has_ended_is_kept_for_a_while(made: Outbox, ledger: Ledger, clock: SettableClock, conninfo: str) -> None:
    """Pruning takes the ended messages of that age with their attempts, and no pending one."""
    ledger.append(a_key(name="first"), a_key(name="second"))
    follow(made)
    made.carrier.answer = lambda m: Delivered(200) if m.payload["name"] == "first" else Failed("no")
    made.delivery().deliver_due()
    clock.advance(timedelta(days=30))
    assert made.outbox.prune(clock.now() - timedelta(days=30)) == 0
    clock.advance(timedelta(microseconds=1))
    assert made.outbox.prune(clock.now() - timedelta(days=30)) == 1
    assert states(conninfo) == {("whe_a", 2): "pending"}
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM outbox.attempts").fetchone() == (1,)
