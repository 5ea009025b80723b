"""The ledger on PostgreSQL: the library's recorder interface over our own table, function and lock.

Why not the library's own recorder: design record 0002 (its table lock stalls behind VACUUM and index builds, its retry
repeats an append whose first try may have committed, and its tables are created at start by every process at once).
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, Protocol

import psycopg
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    Notification,
    StoredEvent,
    Subscription,
    TrackingRecorder,
)
from eventsourcing.utils import Environment
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from application.event_json import EventJson
from application.ledger import NewSealed, NewVerifier
from application.verified_keys import Change
from domain.events import Event
from infrastructure.board import Seat
from infrastructure.postgres.pool import Database

RACES = frozenset(
    {"events_stream_version", "imports_sha256", "imports_bcrypt", "imports_candidate", "imports_external_id"}
)
"""Constraints that two writers can meet: the second decides again on what the first has written."""

IMPORTED = "key.imported"
TRANSACTION_TIMEOUT_SINCE = 170_000


class View(Protocol):
    """A read model: the rows that follow from the events, whoever applies them (an append, a tailer, a rebuild)."""

    name: str

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what the event means; events of no interest write nothing.

        ``position``: the event's; in an append, which does not know it yet, minus its place among the events appended.
        Immediate views write ``ledger.at(position)``, which tells it.
        """
        ...

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row, in the caller's transaction."""
        ...


class AskedBehind(Protocol):
    """A question that goes out with an append and is answered after its commit."""

    def ask(self, cursor: Cursor[TupleRow]) -> None:
        """Sends it."""
        ...

    def keep(self, cursor: Cursor[TupleRow]) -> None:
        """Takes the answer, when all of the append has succeeded."""
        ...


class PostgresRecorder(ApplicationRecorder):
    """Appends and reads stored events; writes the immediate views in the append's own transaction."""

    # From the lock to the commit nobody else appends. So the server waits no longer than this for a writer that stands
    # still or has fallen silent in between; a pipeline that lacks its end is bounded by transaction_timeout alone.
    APPEND = """
        SELECT head, set_config('ledger.head', head::text, true), set_config('transaction_timeout', '2s', true)
        FROM ledger.append(%(streams)s, %(versions)s, %(topics)s, %(states)s, %(told)s) AS head
    """
    APPEND_BEFORE_17 = """
        SELECT head, set_config('ledger.head', head::text, true),
               set_config('idle_in_transaction_session_timeout', '2s', true)
        FROM ledger.append(%(streams)s, %(versions)s, %(topics)s, %(states)s, %(told)s) AS head
    """
    ADD_VERIFIER = """
        INSERT INTO credentials.verifiers (key_id, verifier, receipt) VALUES (%(key_id)s, %(verifier)s, %(receipt)s)
    """
    ADD_IMPORT = """
        INSERT INTO credentials.imports (
            key_id, account_id, algorithm, lookup_prefix, sha256, bcrypt, candidate, external_id
        ) VALUES (
            %(key_id)s, %(account_id)s, %(algorithm)s, %(lookup_prefix)s, %(sha256)s, %(bcrypt)s, %(candidate)s,
            %(external_id)s
        )
    """
    ADD_SEALED = """
        INSERT INTO credentials.webhook_secrets (endpoint_id, version, sealed)
        VALUES (%(endpoint_id)s, %(version)s, %(sealed)s)
    """
    STREAM = """
        SELECT stream_id, version, topic, state FROM ledger.events
        WHERE stream_id = %(stream)s AND version > %(gt)s AND version <= %(lte)s ORDER BY version LIMIT %(limit)s
    """
    STREAM_BACKWARDS = """
        SELECT stream_id, version, topic, state FROM ledger.events
        WHERE stream_id = %(stream)s AND version > %(gt)s AND version <= %(lte)s ORDER BY version DESC LIMIT %(limit)s
    """
    RANGE = """
        SELECT position, stream_id, version, topic, state FROM ledger.events
        WHERE position >= %(start)s AND position <= %(stop)s AND (%(topics)s::text[] IS NULL OR topic = ANY(%(topics)s))
        ORDER BY position LIMIT %(limit)s
    """
    HEAD = "SELECT max(position) FROM ledger.events"
    _EVERYTHING = 2**62

    def __init__(self, database: Database, immediate: Sequence[View], seat: Seat | None = None) -> None:
        """With a ``seat`` the other processes of its server are told what is appended."""
        super().__init__()
        self._database = database
        self._immediate = tuple(immediate)
        self._seat = seat
        self._mapper = EventJson()

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Appends all or nothing and answers the positions.

        Raises IntegrityError when a version is taken, or what an imported key is found by. A connection that breaks is
        UnavailableError, and is not tried again: the append may have committed, and only its author can tell by loading
        the aggregate.
        """
        if not stored_events:
            return []
        verifiers: Sequence[NewVerifier] = kwargs.get("verifiers", ())
        sealed: Sequence[NewSealed] = kwargs.get("sealed", ())
        answer: AskedBehind | None = kwargs.get("answer")
        events = [self._mapper.to_domain_event(stored) for stored in stored_events]
        streams = [str(stored.originator_id) for stored in stored_events]
        topics = [stored.topic for stored in stored_events]
        # An imported key comes with more than its stream: all read it from the ledger.
        seat = None if IMPORTED in topics else self._seat
        appended = {
            "streams": streams,
            "versions": [stored.originator_version for stored in stored_events],
            "topics": topics,
            "states": [stored.state for stored in stored_events],
            "told": seat and seat.server,
        }
        with self._database.connection() as connection:
            is_bounded = connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE
            with connection.cursor() as append, connection.cursor() as cursor, connection.cursor() as asked:
                with self._appending(connection, answer, asked, is_whole=is_bounded):
                    append.execute(self.APPEND if is_bounded else self.APPEND_BEFORE_17, appended)
                    for verifier in verifiers:
                        self._add(cursor, verifier)
                    for secret in sealed:
                        cursor.execute(self.ADD_SEALED, asdict(secret))
                    for view in self._immediate:
                        for place, event in enumerate(events, start=1):
                            view.apply(cursor, event, -place)
                row = append.fetchone()
                if answer is not None:
                    answer.keep(asked)
        head: int = row[0] if row is not None else 0
        positions = list(range(head + 1, head + 1 + len(events)))
        if seat is not None:
            seat.tell(list(map(Change, positions, streams)))
        return positions

    def _add(self, cursor: Cursor[TupleRow], new: NewVerifier) -> None:
        cursor.execute(self.ADD_VERIFIER, {"key_id": new.key_id, "verifier": new.verifier, "receipt": new.receipt})
        if new.imported is not None:
            cursor.execute(self.ADD_IMPORT, {"key_id": new.key_id} | asdict(new.imported))

    @contextmanager
    def _appending(
        self, connection: Connection[TupleRow], behind: AskedBehind | None, asked: Cursor[TupleRow], *, is_whole: bool
    ) -> Generator[None]:
        """A transaction, and what is asked ``behind`` it; ``is_whole``: sent and answered in one go.

        The server has then all that it does under the lock before it takes the lock: a writer that is short of
        processor, or falls silent, keeps nobody waiting.
        """
        try:
            # Not `connection.transaction()`, which awaits all before it sends the commit.
            with connection.pipeline() if is_whole else nullcontext():
                connection.execute("BEGIN")
                yield
                connection.execute("COMMIT")
                if behind is not None:
                    behind.ask(asked)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name in RACES:
                raise IntegrityError(str(error)) from error
            raise
        finally:
            if connection.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
                connection.rollback()

    def select_events(
        self,
        originator_id: object,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """One stream's events with ``gt`` < version ≤ ``lte``; None leaves that side open."""
        query = self.STREAM_BACKWARDS if desc else self.STREAM
        parameters = {
            "stream": str(originator_id),
            "gt": 0 if gt is None else gt,
            "lte": self._EVERYTHING if lte is None else lte,
            "limit": limit,
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(query, parameters).fetchall()
        return [
            StoredEvent(originator_id=stream, originator_version=version, topic=topic, state=bytes(state))
            for stream, version, topic, state in rows
        ]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Events of all streams from ``start`` to ``stop`` in ledger order, at most ``limit``."""
        first = 0 if start is None else start if inclusive_of_start else start + 1
        parameters = {
            "start": first,
            "stop": self._EVERYTHING if stop is None else stop,
            "topics": list(topics) or None,
            "limit": limit,
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.RANGE, parameters).fetchall()
        return [
            Notification(id=position, originator_id=stream, originator_version=version, topic=topic, state=bytes(state))
            for position, stream, version, topic, state in rows
        ]

    def max_notification_id(self) -> int | None:
        """The position of the newest event, None for an empty ledger."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.HEAD).fetchone()
        return None if row is None else row[0]

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """Not offered: `projections.follow_ledger` and `postgres.freshness` listen before they read."""
        raise NotImplementedError


class PostgresLedgerFactory(InfrastructureFactory[TrackingRecorder]):
    """Hands the library our recorder; it opens, creates and closes nothing."""

    def __init__(self, recorder: PostgresRecorder) -> None:
        super().__init__(Environment("ledger", {}))
        self._recorder = recorder

    def application_recorder(self) -> ApplicationRecorder:
        """The ledger's recorder."""
        return self._recorder

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """Not offered: streams are short, so there are no snapshots."""
        raise NotImplementedError

    def tracking_recorder(self, tracking_recorder_class: type[TrackingRecorder] | None = None) -> TrackingRecorder:
        """Not offered: each view commits its own position."""
        raise NotImplementedError

    def process_recorder(self) -> Any:
        """Not offered, as tracking_recorder."""
        raise NotImplementedError
