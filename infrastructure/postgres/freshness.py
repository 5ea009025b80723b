"""Freshness across processes: each follows the ledger under a lease, and a change waits until all have applied it.

Why a change that has waited is refused everywhere (times of one clock rate; a lease lasts L, told by its row):

1. A process takes a lease by: take the time t; read all changes since the last (a snapshot after t); forget what
   changed; move its row's beat, on disk. Only then is its memory fresh, until t + L. No row, no freshness.
2. A change that commits at c waits until every row shows its position, or until c + L by the waiter's own clock.
3. A process whose memory is fresh past c + L took its t after c, so its snapshot held the change.
4. A row that is not there when the waiter looks belongs to a process that was not fresh then, or comes later, and
   whose first snapshot holds the change. Rows are taken out only by their process, or after their beat has stood still
   for L; a beat on disk cannot go back in a crash, and stand still for one that was trusted.

Between two leases positions are reported without waiting for the disk: they let waiters go, and prove nothing. One
that a crash loses only makes a waiter wait longer. Notifications make it quick; nothing relies on them: where one names
the next change, that is forgotten unread, and counts as applied once a statement has found that the ledger has it so.

The processes of the waiter's own server are not waited for when it has told them (`infrastructure/board.py`): each
looks there before it believes its memory, and has its seat there before its row.

It holds for one ledger, and for clocks that run. A failover that loses commits loses revocations, and rows, with them;
a hypervisor that stops a guest's clocks for longer than a lease lets it believe an old one.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event as Flag
from threading import Thread
from typing import Self

import psycopg
import structlog
from psycopg.rows import TupleRow

from application.ports import Freshness
from application.verified_keys import Change, Lease, VerifiedKeys
from domain.ids import RunId
from infrastructure.board import Seat
from infrastructure.postgres.pool import Database, PatientConnection

BATCH = 5000
RETRY_SECONDS = 0.1
POLL_SECONDS = 0.004
LOOKS_MAX = 20
"""So often the server looks, a millisecond apart, before the waiter looks itself: its connection is then others'."""
CLOCK_ANSWER_SECONDS_MAX = 0.25
POSITION = re.compile("[0-9]{1,19}")
CLOCK_MARGIN = 1.01
"""Two machines' clocks may differ by one percent in rate."""

log = structlog.get_logger()


elapsed: Callable[[], float] = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds of a clock that never steps, and goes on while the machine sleeps where the system has such a clock."""


class DatabaseClock:
    """The database's time without asking it each time: its last answer, and what has elapsed since.

    Steps of this machine's clock do not move it. Until the first answer it is this machine's time.
    """

    def __init__(self, machine_now: Callable[[], datetime]) -> None:
        self._offset: float = machine_now().timestamp() - elapsed()
        self._is_set = False

    elapsed = staticmethod(elapsed)

    def now(self) -> datetime:
        """The current instant, aware UTC."""
        return datetime.fromtimestamp(elapsed() + self._offset, UTC)

    def at(self, elapsed: float) -> datetime:
        """The instant of that second of ``elapsed``, aware UTC."""
        return datetime.fromtimestamp(elapsed + self._offset, UTC)

    def set(self, asked_at: float, answer: datetime) -> None:
        """The database said ``answer`` to a question asked at ``asked_at``; a slow answer tells too little.

        The first one counts however slow: this machine's time may be wrong by more.
        """
        if not self._is_set or elapsed() - asked_at < CLOCK_ANSWER_SECONDS_MAX:
            self._offset = answer.timestamp() - asked_at
            self._is_set = True


class LedgerFollower:
    """Keeps one process's memory of keys true: a thread and a connection of its own, from entering to leaving."""

    LISTEN = "LISTEN ledger"
    REPORT_QUICKLY = "SET synchronous_commit = off"
    # set_config holds for this statement's own commit. One statement, for a transaction between two would keep its row
    # locked while this process stands still, against whoever takes it out.
    REGISTER = """
        INSERT INTO serving.processes (process_id, host, started_at, lease_seconds, applied, beat, server, seat)
        VALUES (%(process)s, %(host)s, clock_timestamp(), %(lease)s, 0, 0, %(server)s, %(seat)s)
        ON CONFLICT (process_id) DO UPDATE SET beat = serving.processes.beat + 1
        RETURNING set_config('synchronous_commit', 'on', true)
    """
    # Who had the seat before has ended, or it would be taken; a row that somebody is at is left to others.
    CLEAR_SEAT = """
        DELETE FROM serving.processes WHERE process_id IN (
            SELECT process_id FROM serving.processes
            WHERE server = %(server)s AND seat = %(seat)s AND process_id <> %(process)s
            FOR UPDATE SKIP LOCKED
        )
    """
    STANDING = """
        SELECT position, sha256(state) FROM ledger.events
        WHERE position = %(applied)s OR position = (SELECT max(position) FROM ledger.events)
    """
    # The prefix of an imported key comes with its event, so that it is known before the position is reported.
    CHANGES = """
        SELECT position, stream_id, sha256(state),
               CASE WHEN topic = 'key.imported' THEN convert_from(state, 'UTF8')::json ->> 'prefix' END
        FROM ledger.events
        WHERE position > %(applied)s ORDER BY position LIMIT %(limit)s
    """
    PREFIXES = "SELECT DISTINCT lookup_prefix FROM credentials.imports"
    REPORT = "UPDATE serving.processes SET applied = %(applied)s WHERE process_id = %(process)s"
    # Reports a change that was forgotten by its notification's word, if the word is true.
    REPORT_TOLD = """
        UPDATE serving.processes AS p SET applied = e.position
        FROM ledger.events AS e
        WHERE p.process_id = %(process)s AND e.position = %(position)s AND e.stream_id = %(stream)s
          AND e.topic <> 'key.imported'
        RETURNING sha256(e.state)
    """
    RENEW = """
        UPDATE serving.processes SET applied = %(applied)s, beat = beat + 1 WHERE process_id = %(process)s
        RETURNING clock_timestamp(), set_config('synchronous_commit', 'on', true)
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
        seat: Seat | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._keys = keys
        self._clock = clock
        self._lease = lease
        self._server = None if seat is None else seat.server
        self._process = {
            "process": process_id,
            "host": host,
            "lease": lease.seconds,
            "server": self._server,
            "seat": None if seat is None else seat.number,
        }
        self._mark: bytes | None = None  # of the last event applied; None before the first
        self._outage_told = False  # once for an outage, however often it is tried again
        self._fault_told = False  # likewise
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
                if not self._outage_told:
                    log.warning("ledger_follower_lost_database", reason=str(error), fresh_for=self._keys.fresh_for)
                    self._outage_told = True
                self._stop.wait(RETRY_SECONDS)
            except Exception:  # a fault of our own: what is remembered is not to be believed, and all begins anew
                if not self._fault_told:
                    log.exception("ledger_follower_fault")
                    self._fault_told = True
                self._keys.distrust()
                self._mark = None
                self._stop.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        with PatientConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=2, application_name="keyledger follower"
        ) as connection:
            connection.patience_seconds = self._lease.seconds
            connection.execute(self.LISTEN)
            connection.execute(self.REPORT_QUICKLY)
            if self._server is not None:
                connection.execute(self.CLEAR_SEAT, self._process)
            self._register(connection)
            due = elapsed()
            told: list[str] = []
            while not self._stop.is_set():
                if self._keys.is_lost:
                    self._mark = None
                    self._register(connection)
                    told, due = [], elapsed()
                if told and elapsed() < due and self._apply_told(connection, told):
                    told = self._wait(connection, due)
                    continue
                asked_at = self._apply_changes(connection)
                if asked_at < due:
                    connection.execute(self.REPORT, self._process | {"applied": self._keys.applied})
                elif self._renew(connection, asked_at):
                    due = asked_at + self._lease.renewal_seconds
                    self._outage_told = self._fault_told = False
                else:
                    # Somebody has taken this process for dead: it registers before it trusts its memory again.
                    self._keys.distrust()
                    self._register(connection)
                    continue
                told = self._wait(connection, due)
            self._keys.distrust()
            connection.execute(self.LEAVE, self._process)

    def _register(self, connection: PatientConnection) -> None:
        connection.execute(self.REGISTER, self._process)
        standing: dict[int, bytes] = dict(connection.execute(self.STANDING, {"applied": self._keys.applied}).fetchall())
        if self._mark is None or standing.get(self._keys.applied) != self._mark:
            # The first time; or what was applied is not in this ledger, so it is another than before.
            head = max(standing, default=0)
            self._keys.start_at(head)
            # Read after the head: what is imported from then on comes as a change.
            self._keys.prefixes.replace(prefix for (prefix,) in connection.execute(self.PREFIXES))
            self._mark = standing.get(head)

    def _wait(self, connection: PatientConnection, due: float) -> list[str]:
        """The notifications that end the wait, as they came; none when the lease is due.

        Those of this server's own changes do not: they were told, or are found when the lease is due.
        """
        while (left := due - elapsed()) > 0 and not self._stop.is_set():
            told = [told.payload for told in connection.notifies(timeout=left, stop_after=1)]
            self._keys.hear()
            others = [payload for payload in told if payload.split(" ")[2:] != [self._server]]
            if others or self._keys.is_lost:
                return others
        return []

    def _apply_told(self, connection: PatientConnection, told: Iterable[str]) -> bool:
        """Applies and reports what notifications tell; False when it must be read."""
        for payload in told:
            position, stream_id, *_ = [*payload.split(" "), ""]
            change = Change(int(position) if POSITION.fullmatch(position) else 0, stream_id)
            if 0 < change.position <= self._keys.applied:
                continue
            if change.position != self._keys.applied + 1 or not stream_id:
                return False
            self._keys.apply_ahead(change)  # before it is reported
            row = connection.execute(
                self.REPORT_TOLD, self._process | {"position": change.position, "stream": stream_id}
            ).fetchone()
            if row is None:
                return False
            self._keys.apply([change])
            self._mark = row[0]
        return True

    def _apply_changes(self, connection: PatientConnection) -> float:
        """Reads and applies all that is new; the time before the read that found no more."""
        while True:
            asked_at = elapsed()
            rows: list[tuple[int, str, bytes, str | None]] = connection.execute(
                self.CHANGES, {"applied": self._keys.applied, "limit": BATCH}
            ).fetchall()
            self._keys.prefixes.add(prefix for *_, prefix in rows if prefix is not None)
            self._keys.apply(Change(position, stream_id) for position, stream_id, *_ in rows)
            if rows:
                self._mark = rows[-1][2]
            if len(rows) < BATCH:
                return asked_at

    def _renew(self, connection: PatientConnection, asked_at: float) -> bool:
        """Trusts the memory for a lease from ``asked_at``; False when this process has no row any more."""
        renewed_at = elapsed()
        row = connection.execute(self.RENEW, self._process | {"applied": self._keys.applied}).fetchone()
        if row is None:
            return False
        self._clock.set(renewed_at, row[0])
        self._keys.extend(asked_at + self._lease.seconds)
        return True


@dataclass(frozen=True, slots=True)
class _Process:
    applied: int
    beat: int
    lease_seconds: float
    server: str | None


def _processes(look: TupleRow) -> dict[str, _Process]:
    names, *columns, _ = look
    return dict(zip(names, map(_Process, *columns), strict=True))


def _nobody_counts(seconds: float) -> None:
    del seconds


class PostgresFreshness:
    """The port `KeyCache`: waits until every serving process has applied a position, or cannot be fresh any more.

    ``count_wait`` is told the seconds of each wait. With a ``seat`` the processes of its server are waited for only
    where it has not told them.
    """

    LOOK = """
        SELECT process_ids, applied, beats, lease_seconds, servers, waited_seconds
        FROM serving.await_applied(%(position)s, %(looks_max)s, %(told)s)
    """
    # Who is not woken by what its own server tells reads the ledger for a notification that names no server.
    WAKE = "SELECT pg_notify('ledger', %(position)s::text)"
    TAKE_OUT = "DELETE FROM serving.processes WHERE process_id = %(process)s AND beat = %(beat)s"

    def __init__(
        self, database: Database, *, count_wait: Callable[[float], None] = _nobody_counts, seat: Seat | None = None
    ) -> None:
        self._database = database
        self._count_wait = count_wait
        self._seat = seat

    @property
    def told(self) -> str | None:
        """The server whose processes are told what this one changes; None: no others are."""
        return None if self._seat is None else self._seat.server

    def await_applied(self, position: int) -> Freshness:
        """Returns once no process can act on anything older; at the latest the longest lease after it was called.

        Call it after the change has committed.
        """
        return self.conclude(position, self._look(position, looks_max=LOOKS_MAX))

    def conclude(self, position: int, first: TupleRow) -> Freshness:
        """As ``await_applied``, from a first look: a row of LOOK, asked for after the change had committed."""
        told = self.told if self._seat is not None and self._seat.has_told(position) else None
        seen = processes = _processes(first)
        seen_at = looked_at = elapsed()
        began = seen_at - first[-1]
        if told is None and self._is_behind_here(processes, position):
            with self._database.cursor() as cursor:
                cursor.execute(self.WAKE, {"position": position})
        while True:
            behind = {
                name: process
                for name, process in processes.items()
                if process.applied < position and (told is None or process.server != told)
            }
            # Past a process's lease it cannot be fresh from before; and if it has not moved, it is not there any more.
            lease_seconds = max((process.lease_seconds for process in behind.values()), default=0.0)
            if looked_at - seen_at >= lease_seconds * CLOCK_MARGIN:
                self._take_out(seen.items() & behind.items())
                waited = timedelta(seconds=elapsed() - began)
                self._count_wait(waited.total_seconds())
                return Freshness(
                    position=position,
                    processes=len(processes) - len(behind),
                    waited_ms=round(waited / timedelta(milliseconds=1)),
                )
            # In a command's own thread; of a row that moves, and of a lease that ends, nobody tells.
            time.sleep(POLL_SECONDS)
            looked_at = elapsed()
            processes = _processes(self._look(position, looks_max=1))

    def _is_behind_here(self, processes: dict[str, _Process], position: int) -> bool:
        """Whether a process of this server is."""
        own = self.told
        return own is not None and any(each.server == own and each.applied < position for each in processes.values())

    def _look(self, position: int, *, looks_max: int) -> TupleRow:
        with self._database.cursor() as cursor:
            asked = {"position": position, "looks_max": looks_max, "told": self.told}
            row = cursor.execute(self.LOOK, asked).fetchone()
        if row is None:
            raise TypeError("a function without a set answers one row")
        return row

    def _take_out(self, still: Iterable[tuple[str, _Process]]) -> None:
        for name, process in still:
            log.warning("serving_process_taken_for_dead", process_id=name)
            with self._database.cursor() as cursor:
                cursor.execute(self.TAKE_OUT, {"process": name, "beat": process.beat})
