"""The outbox's rows: put in once, taken by one process at a time, ended, pruned."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Cursor
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from application.outbox import Message, MessageId, MessageState, NewMessage
from domain.ids import AccountId
from infrastructure.postgres.pool import Database

ERROR_CHARACTERS_MAX = 500
PRUNED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as it goes on record. ``error`` None: it was taken."""

    at: datetime
    status: int | None
    latency_ms: int
    error: str | None


class PostgresOutbox:
    """The messages of all channels."""

    PUT = """
        INSERT INTO outbox.messages (
            id, channel, account_id, target, cause_position, kind, payload, created_at, next_at
        ) VALUES (
            %(id)s, %(channel)s, %(account_id)s, %(target)s, %(cause_position)s, %(kind)s, %(payload)s, %(created_at)s,
            %(next_at)s
        ) ON CONFLICT DO NOTHING
    """
    # The oldest first, of receivers and accounts that have room. Rows that another process takes at the same time are
    # passed over; one that it took and did not end is due again when its lease is over. No taking waits for the disk: a
    # crash of PostgreSQL that loses it ends its lease. What was asked for by hand and is taken no sooner than the
    # schedule's next attempt is due is that attempt.
    TAKE = """
        WITH due AS (
            SELECT id FROM outbox.messages
            WHERE channel = %(channel)s AND state = 'pending' AND next_at <= %(now)s
              AND (taken_until IS NULL OR taken_until <= %(now)s)
              AND target <> ALL(%(busy_targets)s) AND account_id <> ALL(%(busy_accounts)s)
            ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        UPDATE outbox.messages AS m
        SET attempts = m.attempts + 1, taken_until = %(taken_until)s,
            unscheduled = m.unscheduled + coalesce((m.scheduled_at > %(now)s)::integer, 0)
        FROM due WHERE m.id = due.id
        RETURNING m.id, m.account_id, m.target, m.cause_position, m.kind, m.payload, m.created_at, m.attempts,
                  m.by_hand, m.unscheduled, CASE WHEN m.scheduled_at > %(now)s THEN m.scheduled_at END,
                  set_config('synchronous_commit', 'off', true)
    """
    # An attempt whose lease ran out and that was then made by another counts by its success alone.
    ADD_ATTEMPT = """
        INSERT INTO outbox.attempts (message_id, number, at, status, latency_ms, error)
        SELECT id, %(number)s, %(at)s, %(status)s, %(latency_ms)s, %(error)s FROM outbox.messages WHERE id = %(id)s
        ON CONFLICT DO NOTHING
    """
    TRY_AGAIN = """
        UPDATE outbox.messages SET next_at = %(next_at)s, scheduled_at = NULL, taken_until = NULL
        WHERE id = %(id)s AND attempts = %(number)s AND state = 'pending'
    """
    END = """
        UPDATE outbox.messages SET state = %(state)s, ended_at = %(at)s, taken_until = NULL, by_hand = false
        WHERE id = %(id)s AND state = 'pending' AND (attempts = %(number)s OR %(state)s = 'delivered')
    """
    # The attempt did not take place: its number is free again.
    GIVE_BACK = """
        UPDATE outbox.messages
        SET attempts = attempts - 1, unscheduled = unscheduled - %(unscheduled)s, taken_until = NULL,
            next_at = coalesce(%(next_at)s::timestamptz, next_at)
        WHERE id = %(id)s AND attempts = %(number)s AND state = 'pending'
    """
    PRUNE = """
        DELETE FROM outbox.messages WHERE id IN (
            SELECT id FROM outbox.messages WHERE ended_at < %(before)s ORDER BY ended_at LIMIT %(limit)s
        )
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(  # noqa: PLR0913 - what a message is
        self,
        cursor: Cursor[TupleRow],
        channel: str,
        new: NewMessage,
        position: int,
        *,
        created_at: datetime,
        next_at: datetime,
    ) -> None:
        """Adds what the event at ``position`` tells one receiver, in the caller's transaction; again adds nothing.

        ``created_at`` is the event's time, ``next_at`` when the first attempt is due.
        """
        message_id = MessageId.of(
            channel=channel,
            account_id=new.account_id,
            target=new.target,
            cause_position=position,
            kind=new.kind,
        )
        cursor.execute(
            self.PUT,
            {
                "id": message_id,
                "channel": channel,
                "account_id": new.account_id,
                "target": new.target,
                "cause_position": position,
                "kind": new.kind,
                "payload": Jsonb(dict(new.payload)),
                "created_at": created_at,
                "next_at": next_at,
            },
        )

    def take(
        self,
        channel: str,
        *,
        now: datetime,
        lease: timedelta,
        busy_targets: Collection[str],
        busy_accounts: Collection[str],
    ) -> Message | None:
        """The message that is due the longest, for this process alone until ``now + lease``; None when none is due."""
        parameters = {
            "channel": channel,
            "now": now,
            "taken_until": now + lease,
            "busy_targets": list(busy_targets),
            "busy_accounts": list(busy_accounts),
        }
        with self._database.cursor() as cursor:
            row = cursor.execute(self.TAKE, parameters).fetchone()
        return None if row is None else _message(row)

    def try_again(self, message: Message, attempt: Attempt, next_at: datetime) -> None:
        """Puts a failed attempt on record, and when the next one follows."""
        with self._database.transaction() as cursor:
            self._add(cursor, message, attempt)
            cursor.execute(self.TRY_AGAIN, {"id": message.id, "number": message.attempt, "next_at": next_at})

    def end(self, message: Message, attempt: Attempt | None, state: MessageState, at: datetime) -> None:
        """Puts the last attempt on record (None: there was nothing to attempt), and the message's end."""
        with self._database.transaction() as cursor:
            if attempt is not None:
                self._add(cursor, message, attempt)
            cursor.execute(self.END, {"id": message.id, "number": message.attempt, "state": state.value, "at": at})

    def give_back(self, message: Message, next_at: datetime | None = None) -> None:
        """As if it had not been taken; ``next_at`` None: it stays due."""
        parameters = {
            "id": message.id,
            "number": message.attempt,
            "unscheduled": int(message.scheduled_at is not None),
            "next_at": next_at,
        }
        with self._database.cursor() as cursor:
            cursor.execute(self.GIVE_BACK, parameters)

    def prune(self, before: datetime) -> int:
        """Deletes the messages that ended before that, and their attempts; answers how many."""
        pruned = 0
        while True:
            with self._database.cursor() as cursor:
                count = cursor.execute(self.PRUNE, {"before": before, "limit": PRUNED_AT_ONCE}).rowcount
            pruned += count
            if count < PRUNED_AT_ONCE:
                return pruned

    def _add(self, cursor: Cursor[TupleRow], message: Message, attempt: Attempt) -> None:
        cursor.execute(
            self.ADD_ATTEMPT,
            {
                "id": message.id,
                "number": message.attempt,
                "at": attempt.at,
                "status": attempt.status,
                "latency_ms": attempt.latency_ms,
                "error": None if attempt.error is None else attempt.error[:ERROR_CHARACTERS_MAX],
            },
        )


def _message(row: TupleRow) -> Message:
    message_id, account_id, *facts, _ = row
    return Message(MessageId(message_id), AccountId(account_id), *facts)
