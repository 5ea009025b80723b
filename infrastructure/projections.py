"""Views made from the ledger: followed by a tailer, or rebuilt whole.

A tailer listens before it reads and polls every 250 ms, so that a lost notification costs a quarter of a second and
never an event. A batch and the position it reaches commit together. An event that a view cannot take stops that view,
with the reason in ``views.progress``, and no other.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import Event as Flag

import psycopg
import structlog
from eventsourcing.persistence import Notification

from application.event_json import EventJson
from domain.errors import UnavailableError
from infrastructure.eventstore import PostgresRecorder, View
from infrastructure.postgres.pool import Database, TidyConnection

POLL = timedelta(milliseconds=250)
BATCH = 1000
APPEND_LOCK = "SELECT pg_advisory_xact_lock(7310305)"
DATABASE_AWAY = (UnavailableError, psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)
"""It is lost, or takes no writes: that passes by itself, and is no fault of an event or of a message."""

log = structlog.get_logger()


def follow_ledger(conninfo: str, catch_up: Callable[[], bool], stop: Flag) -> None:
    """Calls ``catch_up`` whenever the ledger may have grown, and as long as it answers True, until ``stop`` is set.

    It may raise UnavailableError or psycopg's errors, and is then called again: a database that is lost or takes no
    writes is waited for.
    """
    while not stop.is_set():
        try:
            _listen(conninfo, catch_up, stop)
        except (psycopg.Error, UnavailableError) as error:
            log.warning("tailer_waits_for_database", reason=str(error))
            stop.wait(POLL.total_seconds())


def _listen(conninfo: str, catch_up: Callable[[], bool], stop: Flag) -> None:
    with TidyConnection.connect(conninfo, autocommit=True, connect_timeout=5) as listener:
        listener.execute("LISTEN ledger")
        while not stop.is_set():
            while catch_up():
                pass
            for _ in listener.notifies(timeout=POLL.total_seconds(), stop_after=1):
                pass


class Tailer:
    """Keeps the following views up to date with the ledger."""

    POSITION = "SELECT position, error FROM views.progress WHERE view = %(view)s"
    # The row lock makes two tailers take turns: a batch is applied once, whoever leads. No batch waits for the disk: a
    # crash of PostgreSQL loses the newest whole, with their position, and they are applied again.
    LOCK_POSITION = """
        SELECT position, set_config('synchronous_commit', 'off', true) FROM views.progress
        WHERE view = %(view)s FOR UPDATE
    """
    START = "INSERT INTO views.progress (view, position) VALUES (%(view)s, 0) ON CONFLICT DO NOTHING"
    MOVE = "UPDATE views.progress SET position = %(position)s, error = NULL WHERE view = %(view)s"
    STOP = "UPDATE views.progress SET error = %(error)s WHERE view = %(view)s"

    def __init__(self, database: Database, recorder: PostgresRecorder, views: Sequence[View]) -> None:
        self._database = database
        self._recorder = recorder
        self._views = tuple(views)
        self._mapper = EventJson()
        self._stopped_by: dict[str, str] = {}

    def run(self, stop: Flag) -> None:
        """Follows until ``stop`` is set; a lost database is waited for."""
        follow_ledger(self._database.conninfo, self.catch_up, stop)

    def catch_up(self) -> bool:
        """One batch for each view; whether there may be more for any of them.

        There is none behind a batch that is not full: what is appended afterwards is notified of afterwards.
        """
        more = [self._advance(view) for view in self._views]
        return any(more)

    def _advance(self, view: View) -> bool:
        position: int | None = None
        try:
            with self._database.transaction() as cursor:
                row = cursor.execute(self.LOCK_POSITION, {"view": view.name}).fetchone()
                if row is None:
                    cursor.execute(self.START, {"view": view.name})
                    row = cursor.execute(self.LOCK_POSITION, {"view": view.name}).fetchone()
                done: int = row[0] if row is not None else 0
                batch = self._recorder.select_notifications(done + 1, BATCH)
                if not batch:
                    return False
                with cursor.connection.pipeline():
                    for notification in batch:
                        position = notification.id
                        view.apply(cursor, self._mapper.to_domain_event(notification), notification.id)
                    cursor.execute(self.MOVE, {"view": view.name, "position": batch[-1].id})
        except DATABASE_AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one event breaks must stop this view and no other
            return self._stopped(view, position, error)
        if self._stopped_by.pop(view.name, None) is not None:
            log.info("projection_goes_on", view=view.name, position=position)
        return len(batch) == BATCH

    def _stopped(self, view: View, position: int | None, error: Exception) -> bool:
        message = f"at position {position}: {type(error).__name__}: {error}"[:500]
        if message != self._stopped_by.get(view.name):  # it is tried again with each poll, and said once
            log.error("projection_stopped", view=view.name, position=position, exc_info=error)
        self._stopped_by[view.name] = message
        try:
            with self._database.cursor() as cursor:
                cursor.execute(self.STOP, {"view": view.name, "error": message})
        except (UnavailableError, psycopg.Error) as why:  # it has been said in the log, and the next poll tries again
            log.warning("projection_stop_not_on_record", view=view.name, reason=str(why))
        return False


class Rebuilder:
    """Makes views anew from the ledger; readers see the old rows until the new ones commit."""

    # Before anything is cleared: a tailer's batch has ended and is seen, or begins when this has ended. And before the
    # lock of the appends, which need not wait for a batch, too; who has that lock never wants these rows.
    LOCK_POSITIONS = "SELECT FROM views.progress WHERE view = ANY(%(views)s) ORDER BY view FOR UPDATE"

    def __init__(
        self, database: Database, recorder: PostgresRecorder, immediate: Sequence[View], following: Sequence[View]
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._views = (*immediate, *following)
        self._following = sorted(view.name for view in following)
        self._mapper = EventJson()

    def rebuild(self) -> int:
        """Rebuilds every view in one transaction, and answers the number of events replayed.

        Appends wait meanwhile (it holds their lock), and so do tailers; readers do not.
        """
        replayed = 0
        with self._database.unhurried_transaction() as cursor:
            for name in self._following:
                cursor.execute(Tailer.START, {"view": name})
            cursor.execute(self.LOCK_POSITIONS, {"views": self._following})
            cursor.execute(APPEND_LOCK)
            for view in self._views:
                view.clear(cursor)
            while batch := self._recorder.select_notifications(replayed + 1, BATCH):
                self._apply(cursor, batch)
                replayed = batch[-1].id
            for name in self._following:
                cursor.execute(Tailer.MOVE, {"view": name, "position": replayed})
        return replayed

    def _apply(self, cursor: psycopg.Cursor[tuple[object, ...]], batch: Sequence[Notification]) -> None:
        with cursor.connection.pipeline():
            for notification in batch:
                event = self._mapper.to_domain_event(notification)
                for view in self._views:
                    view.apply(cursor, event, notification.id)
