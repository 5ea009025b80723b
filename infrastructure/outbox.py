"""The outbox at work: messages made from the ledger's events, and brought to their receivers.

A message is made in the transaction that moves its channel's position, so each event is told once, whatever crashes.
It is brought by the process that has taken it, under a lease: a crash costs the lease's time and at worst a second
delivery.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Condition
from threading import Event as Flag
from time import perf_counter
from typing import Protocol

import psycopg
import structlog
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.event_json import EventJson
from application.outbox import (
    Cancelled,
    Carrier,
    Delivered,
    Failed,
    Held,
    Message,
    MessageState,
    NewMessage,
    Outcome,
)
from application.ports import Clock, Entropy
from domain.errors import UnavailableError
from domain.events import Event
from infrastructure.eventstore import PostgresRecorder
from infrastructure.postgres.outbox import Attempt, PostgresOutbox
from infrastructure.postgres.pool import Database
from infrastructure.projections import DATABASE_AWAY, follow_ledger

BATCH = 500
POLL = timedelta(milliseconds=250)
INTERRUPT_AGAIN = timedelta(milliseconds=50)
RECORD_AGAIN = timedelta(milliseconds=500)
JITTER = 0.1

CountDelivery = Callable[[str, str, float], None]
"""Told of each attempt: the channel, ``delivered``, ``failed``, ``cancelled`` or ``postponed``, and its seconds."""

log = structlog.get_logger()


class Source(Protocol):
    """Says what events are to tell through one channel."""

    topics: frozenset[str]
    """Events of other topics are passed over unread."""

    def messages_for(self, cursor: Cursor[TupleRow], event: Event, position: int) -> Sequence[NewMessage]:
        """What the event tells, and whom; reads what it needs by the cursor, and writes nothing.

        Whatever it raises stops this channel at this event, with the reason on record.
        """
        ...


@dataclass(frozen=True, slots=True)
class Channel:
    """One way to the outside, by its name in the outbox, and how much it may do at once.

    An account has at most ``at_once_per_account`` of the ``at_once`` places, and no more than are free beside them, so
    the last free place is for an account that has none. ``lease`` is longer than any attempt of the carrier takes.
    """

    name: str
    source: Source
    carrier: Carrier
    at_once: int = 16
    at_once_per_account: int = 4
    at_once_per_target: int = 2
    lease: timedelta = timedelta(minutes=1)


class OutboxFollower:
    """Makes the messages of one channel from the ledger, each event's once; a view it is not: no rebuild tells again.

    A channel that is new to the database begins with what happens from then on.
    """

    START = """
        INSERT INTO outbox.progress (channel, position)
        SELECT %(channel)s, coalesce(max(position), 0) FROM ledger.events ON CONFLICT DO NOTHING
    """
    # The row lock makes two followers take turns, whoever leads. No batch waits for the disk: what a crash of
    # PostgreSQL loses is made again, with the same ids.
    LOCK_POSITION = """
        SELECT position, set_config('synchronous_commit', 'off', true) FROM outbox.progress
        WHERE channel = %(channel)s FOR UPDATE
    """
    MOVE = "UPDATE outbox.progress SET position = %(position)s, error = NULL WHERE channel = %(channel)s"
    STOP = "UPDATE outbox.progress SET error = %(error)s WHERE channel = %(channel)s"

    def __init__(self, database: Database, recorder: PostgresRecorder, channel: Channel, clock: Clock) -> None:
        self._database = database
        self._recorder = recorder
        self._channel = channel
        self._clock = clock
        self._outbox = PostgresOutbox(database)
        self._mapper = EventJson()
        self._stopped_by: str | None = None

    def run(self, stop: Flag) -> None:
        """Follows until ``stop`` is set; a lost database is waited for."""
        follow_ledger(self._database.conninfo, self.catch_up, stop)

    def catch_up(self) -> bool:
        """One batch; whether there may be more: there is none behind one that is not full, as with a tailer's."""
        position: int | None = None
        name, source = self._channel.name, self._channel.source
        try:
            with self._database.transaction() as cursor:
                row = cursor.execute(self.LOCK_POSITION, {"channel": name}).fetchone()
                if row is None:
                    cursor.execute(self.START, {"channel": name})
                    row = cursor.execute(self.LOCK_POSITION, {"channel": name}).fetchone()
                done: int = row[0] if row is not None else 0
                batch = self._recorder.select_notifications(done + 1, BATCH)
                if not batch:
                    return False
                now = self._clock.now()
                for notification in batch:
                    if notification.topic in source.topics:
                        position = notification.id
                        event = self._mapper.to_domain_event(notification)
                        for message in source.messages_for(cursor, event, position):
                            at = event.timestamp
                            self._outbox.put(cursor, name, message, position, created_at=at, next_at=now)
                cursor.execute(self.MOVE, {"channel": name, "position": batch[-1].id})
        except DATABASE_AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one event breaks must stop this channel and no other
            return self._stopped(position, error)
        self._stopped_by = None
        return len(batch) == BATCH

    def _stopped(self, position: int | None, error: Exception) -> bool:
        message = f"at position {position}: {type(error).__name__}: {error}"[:500]
        if message != self._stopped_by:  # it is tried again with each poll, and said once
            log.error("outbox_stopped", channel=self._channel.name, position=position, exc_info=error)
        self._stopped_by = message
        try:
            with self._database.cursor() as cursor:
                cursor.execute(self.STOP, {"channel": self._channel.name, "error": message})
        except (UnavailableError, psycopg.Error) as why:  # it has been said in the log, and the next poll tries again
            log.warning("outbox_stop_not_on_record", channel=self._channel.name, reason=str(why))
        return False


class OutboxDelivery:
    """Brings one channel's due messages to their receivers, some at once, and puts every attempt on record.

    No receiver and no account has more than its share of the attempts under way, and the last free place is for an
    account that has none: as long as slow accounts are fewer than the places, they hold up nobody else.
    """

    def __init__(
        self, outbox: PostgresOutbox, channel: Channel, *, clock: Clock, entropy: Entropy, count: CountDelivery
    ) -> None:
        self._outbox = outbox
        self._channel = channel
        self._carrier = channel.carrier
        self._clock = clock
        self._entropy = entropy
        self._count = count
        self._changed = Condition()
        self._targets: Counter[str] = Counter()
        self._accounts: Counter[str] = Counter()
        self._ended = 0
        self._deposed = Flag()

    def run(self, stop: Flag) -> None:
        """Delivers until ``stop`` is set; what is under way then is broken off, and due again at once."""
        self._deposed = stop
        with ThreadPoolExecutor(self._channel.at_once, thread_name_prefix=f"deliver-{self._channel.name}") as threads:
            while not stop.is_set():
                ended = self._ended
                try:
                    started = self._start_one(threads)
                except (UnavailableError, psycopg.Error) as error:
                    log.warning("outbox_waits_for_database", channel=self._channel.name, reason=str(error))
                    started = False
                if not started:
                    with self._changed:
                        self._changed.wait_for(lambda: self._ended != ended, POLL.total_seconds())  # noqa: B023 - waited for here
            self._break_off()

    def deliver_due(self) -> int:
        """Delivers what is due now, one after another, in this thread; answers how many attempts it made."""
        made = 0
        while (message := self._take()) is not None:
            self._deliver(message)
            made += 1
        return made

    def _start_one(self, threads: ThreadPoolExecutor) -> bool:
        with self._changed:
            if self._accounts.total() >= self._channel.at_once:
                return False
        message = self._take()
        if message is None:
            return False
        threads.submit(self._deliver, message)
        return True

    def _take(self) -> Message | None:
        with self._changed:
            busy_targets = [each for each, n in self._targets.items() if n >= self._channel.at_once_per_target]
            # The share shrinks as places run out: three slow accounts fill three quarters of them, not all.
            free = self._channel.at_once - self._accounts.total()
            share = min(self._channel.at_once_per_account, free)
            busy_accounts = [each for each, n in self._accounts.items() if n >= share]
        message = self._outbox.take(
            self._channel.name,
            now=self._clock.now(),
            lease=self._channel.lease,
            busy_targets=busy_targets,
            busy_accounts=busy_accounts,
        )
        if message is not None:
            with self._changed:
                self._targets[message.target] += 1
                self._accounts[message.account_id] += 1
        return message

    def _break_off(self) -> None:
        # Again and again: an attempt that had not begun when it was first told has begun by then.
        with self._changed:
            while self._accounts.total():
                self._carrier.interrupt()
                self._changed.wait(INTERRUPT_AGAIN.total_seconds())

    def _deliver(self, message: Message) -> None:
        try:
            at, began = self._clock.now(), perf_counter()
            outcome = self._attempt(message)
            self._put_on_record(message, outcome, at, perf_counter() - began)
        except Exception:
            # Said here, for the pool keeps it to itself. What has no record is made again when its lease is over.
            log.exception("outbox_lost_an_attempt", channel=self._channel.name, message=message.id)
        finally:
            with self._changed:
                self._targets -= Counter((message.target,))
                self._accounts -= Counter((message.account_id,))
                self._ended += 1
                self._changed.notify_all()

    def _attempt(self, message: Message) -> Outcome | None:
        """None: it did not take place."""
        try:
            outcome = self._carrier.deliver(message)
        except UnavailableError as error:
            log.warning("delivery_postponed", channel=self._channel.name, message=message.id, reason=error.message)
            return None
        except Exception as error:
            log.exception("delivery_broke", channel=self._channel.name, message=message.id)
            return Failed(f"internal error: {type(error).__name__}")
        return None if isinstance(outcome, Failed) and self._deposed.is_set() else outcome

    def _put_on_record(self, message: Message, outcome: Outcome | None, at: datetime, seconds: float) -> None:
        while True:
            try:
                self._record(message, outcome, at, seconds)
            except DATABASE_AWAY:
                overdue = self._clock.now() >= at + self._channel.lease
                if overdue or self._deposed.wait(RECORD_AGAIN.total_seconds()):
                    raise
            else:
                return

    def _record(self, message: Message, outcome: Outcome | None, at: datetime, seconds: float) -> None:
        result = "delivered"
        match outcome:
            case None:
                result = "postponed"
                self._outbox.give_back(message)
            case Held(again_after):
                result = "postponed"
                self._outbox.give_back(message, self._clock.now() + again_after)
            case Delivered(status):
                self._outbox.end(message, _attempt_of(at, seconds, status), MessageState.DELIVERED, self._clock.now())
            case Cancelled(reason):
                result = "cancelled"
                log.info("message_cancelled", channel=self._channel.name, message=message.id, reason=reason)
                self._outbox.end(message, None, MessageState.CANCELLED, self._clock.now())
            case Failed():
                result = "failed"
                self._record_failure(message, outcome, _attempt_of(at, seconds, outcome.status, outcome.error))
        self._count(self._channel.name, result, seconds)

    def _record_failure(self, message: Message, failure: Failed, attempt: Attempt) -> None:
        now, retries = self._clock.now(), self._carrier.retries
        if message.by_hand:  # it decides nothing, and has no next one
            self._outbox.end(message, attempt, MessageState.FAILED, now)
            return
        if message.scheduled_at is not None:
            self._outbox.try_again(message, attempt, message.scheduled_at)
            return
        scheduled = message.attempt - message.unscheduled
        if scheduled <= len(retries) and not failure.permanent:
            wait = retries[scheduled - 1] * self._jitter()
            self._outbox.try_again(message, attempt, now + max(wait, failure.retry_after or wait))
            return
        try:
            self._carrier.give_up(message, failure)
        except DATABASE_AWAY:
            raise
        except Exception:
            # The message has failed all the same, and is on record as that below.
            log.exception("giving_up_broke", channel=self._channel.name, message=message.id)
        self._outbox.end(message, attempt, MessageState.FAILED, now)

    def _jitter(self) -> float:
        part = int.from_bytes(self._entropy.bytes(2), "big") / 65_535
        return 1 + JITTER * (2 * part - 1)


def _attempt_of(at: datetime, seconds: float, status: int | None, error: str | None = None) -> Attempt:
    return Attempt(at, status, round(seconds * 1000), error)
