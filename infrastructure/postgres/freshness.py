"""Freshness across processes: each follows the ledger under a lease, and a change waits until all have applied it.

Why a change that has waited is refused everywhere (times of one clock rate; a lease lasts L):

1. A process renews by: take the time t; read all changes since the last (a snapshot after t); forget what changed;
   write the position into its row. Only then is its memory fresh, until t + L. No row, no freshness.
2. A change that commits at c waits until every row shows its position, or until c + L by the waiter's own clock.
3. A process whose memory is fresh past c + L took its t after c, so its snapshot held the change.
4. A row that is not there when the waiter looks belongs to a process that was not fresh then, or comes later, and
   whose first snapshot holds the change. Rows are taken out only by their process, or after standing still for L.

Notifications make it quick; nothing relies on them.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from threading import Thread
from typing import Self

import psycopg
import structlog

from application.ports import Freshness
from application.verified_keys import Change, Lease, VerifiedKeys
from domain.ids import RunId
from infrastructure.postgres.pool import Database, PatientConnection

BATCH = 5000
RETRY_SECONDS = 0.1
POLL_SECONDS = (0.0005, 0.001, 0.001, 0.002, 0.002, 0.004)
CLOCK_ANSWER_SECONDS_MAX = 0.25
CLOCK_MARGIN = 1.01
"""Two machines' clocks may differ by one percent in rate."""

log = structlog.get_logger()


def elapsed() -> float:
    """Seconds of a clock that never steps, and goes on while the machine sleeps where the system has such a clock."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseClock:
    """The database's time without asking it each time: its last answer, and what has elapsed since.

    Steps of this machine's clock do not move it. Until the first answer it is this machine's time.
    """

    def __init__(self, machine_now: Callable[[], datetime]) -> None:
        self._offset: float = machine_now().timestamp() - elapsed()

    def now(self) -> datetime:
        """The current instant, aware UTC."""
        return datetime.fromtimestamp(elapsed() + self._offset, UTC)

    def set(self, asked_at: float, answer: datetime) -> None:
        """The database said ``answer`` to a question asked at ``asked_at``; a slow answer tells too little."""
        if elapsed() - asked_at < CLOCK_ANSWER_SECONDS_MAX:
            self._offset = answer.timestamp() - asked_at


class LedgerFollower:
    """Keeps one process's memory of keys true: a thread and a connection of its own, from entering to leaving."""

    LISTEN = "LISTEN ledger"
    REGISTER = """
        INSERT INTO serving.processes (process_id, host, started_at, applied, beat)
        SELECT %(process)s, %(host)s, clock_timestamp(), coalesce(max(position), 0), 0 FROM ledger.events
        ON CONFLICT (process_id) DO UPDATE SET beat = serving.processes.beat + 1
        RETURNING (SELECT coalesce(max(position), 0) FROM ledger.events)
    """
    CHANGES = """
        SELECT position, stream_id FROM ledger.events WHERE position > %(applied)s ORDER BY position LIMIT %(limit)s
    """
    REPORT = """
        UPDATE serving.processes SET applied = %(applied)s, beat = beat + 1 WHERE process_id = %(process)s
        RETURNING clock_timestamp()
    """
    LEAVE = "DELETE FROM serving.processes WHERE process_id = %(process)s"

    def __init__(  # noqa: PLR0913 - what it keeps true, and how
        self,
        conninfo: str,
        *,
        keys: VerifiedKeys,
        clock: DatabaseClock,
        lease: Lease,
        process_id: RunId,
        host: str,
    ) -> None:
        self._conninfo = conninfo
        self._keys = keys
        self._clock = clock
        self._lease = lease
        self._process = {"process": process_id, "host": host}
        self._stop = Flag()
        self._thread = Thread(target=self._run, name="ledger-follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except psycopg.Error as error:
                log.warning("ledger_follower_lost_database", reason=str(error), fresh_for=self._keys.fresh_for)
                self._stop.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        with PatientConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=2, application_name="keyledger follower"
        ) as connection:
            connection.patience_seconds = self._lease.seconds
            connection.execute(self.LISTEN)
            self._register(connection)
            while not self._stop.is_set():
                self._renew(connection)
                for _ in connection.notifies(timeout=self._lease.renewal_seconds, stop_after=1):
                    pass
            self._keys.distrust()
            connection.execute(self.LEAVE, self._process)

    def _register(self, connection: PatientConnection) -> None:
        # The row must survive a crash of the server, or a waiter would not wait for this process. A report need not:
        # a position that is lost only makes a waiter wait longer.
        connection.execute("SET synchronous_commit = on")
        row = connection.execute(self.REGISTER, self._process).fetchone()
        connection.execute("SET synchronous_commit = off")
        head: int = row[0] if row is not None else 0
        if not self._keys.applied or self._keys.applied > head:
            # The first time, or the ledger is shorter than what was applied: another database than before.
            self._keys.start_at(head)

    def _renew(self, connection: PatientConnection) -> None:
        """Reads and applies what is new, reports it, and only then trusts the memory for a lease from the beginning."""
        while True:
            asked_at = elapsed()
            rows = connection.execute(self.CHANGES, {"applied": self._keys.applied, "limit": BATCH}).fetchall()
            self._keys.apply(Change(position, stream_id) for position, stream_id in rows)
            if len(rows) < BATCH:
                break
        reported_at = elapsed()
        row = connection.execute(self.REPORT, self._process | {"applied": self._keys.applied}).fetchone()
        if row is None:
            # Somebody has taken this process for dead: it registers before it trusts its memory again.
            self._register(connection)
            return
        self._clock.set(reported_at, row[0])
        self._keys.extend(asked_at + self._lease.seconds)


@dataclass(frozen=True, slots=True)
class _Behind:
    registered: int
    processes: dict[str, int]  # those that have not applied the position, with their beats


class PostgresFreshness:
    """The port `KeyCache`: waits until every serving process has applied a position, or cannot be fresh any more."""

    PROCESSES = "SELECT process_id, applied, beat FROM serving.processes"
    TAKE_OUT = "DELETE FROM serving.processes WHERE process_id = %(process)s AND beat = %(beat)s"

    def __init__(self, database: Database, *, lease: Lease) -> None:
        self._database = database
        self._bound = lease.seconds * CLOCK_MARGIN

    def await_applied(self, position: int) -> Freshness:
        """Returns once no process can act on anything older; at the latest a lease after it was called.

        Call it after the change has committed.
        """
        began = elapsed()
        seen = self._behind(position)
        seen_at = elapsed()
        turn = 0
        while True:
            looked_at = elapsed()
            behind = self._behind(position)
            if not behind.processes:
                return self._done(position, behind.registered, began)
            if looked_at - seen_at >= self._bound:
                # Nobody can be fresh from before; and who has not moved since the first look is not there any more.
                self._take_out(seen.processes.items() & behind.processes.items())
                return self._done(position, behind.registered - len(behind.processes), began)
            time.sleep(POLL_SECONDS[min(turn, len(POLL_SECONDS) - 1)])
            turn += 1

    def _behind(self, position: int) -> "_Behind":
        with self._database.cursor() as cursor:
            rows: list[tuple[str, int, int]] = cursor.execute(self.PROCESSES).fetchall()
        return _Behind(len(rows), {process: beat for process, applied, beat in rows if applied < position})

    def _done(self, position: int, processes: int, began: float) -> Freshness:
        waited = timedelta(seconds=elapsed() - began)
        return Freshness(position=position, processes=processes, waited_ms=round(waited.total_seconds() * 1000))

    def _take_out(self, still: Iterable[tuple[str, int]]) -> None:
        for process, beat in still:
            log.warning("serving_process_taken_for_dead", process_id=process)
            with self._database.cursor() as cursor:
                cursor.execute(self.TAKE_OUT, {"process": process, "beat": beat})
