"""The access log's writer: one thread, one connection, one statement for whatever is queued (group commit).

Exactly once, whatever breaks: rows are numbered in their run, and ``usage.write_batch`` moves the run from the last
number written to the batch's last one, or does nothing. A batch whose outcome is unknown is simply sent again: if its
first try was committed, or still holds the row's lock and then commits, the second finds the run moved on and writes
nothing. Numbers are never given twice, so a batch that was given up and commits after all does no harm either.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any, Literal, Self

import psycopg
import structlog
from psycopg.rows import TupleRow

from application.ports import Entropy
from application.usage_ports import AccessKind, AccessRow
from domain.errors import UnavailableError
from domain.ids import RunId
from infrastructure.postgres.access_batch import BatchArguments
from infrastructure.postgres.pool import PatientConnection, SilentError

BATCH_ROWS_MAX = 1000  # some 20 ms of the database's time
HEARTBEAT_SECONDS = 10.0
PAUSE_SECONDS = (0.01, 0.05, 0.1, 0.2, 0.5)
CLOSE_SECONDS = 5.0
LOOK_SECONDS = 0.02  # each look is a turn of the interpreter, which the event loop waits for
STATEMENT_SECONDS = 5.0
DOUBT_SECONDS = 5.0
"""So long after a batch was given up, and none written since, `takes_rows` says no. Not for ever: a process that is
sent no requests for it has no batch that could show that rows are written again. And so long after one was begun that
has not ended."""

log = structlog.get_logger()

Durability = Literal["commit", "buffered"]
Deliver = Callable[[Sequence[Any], UnavailableError | None], None]


# What is queued of a request: a plain tuple, as naming its fields takes longer than queueing it.
_Queued = tuple[AccessKind, datetime, str, Any, Deliver, float]
"""Kind, time, request id, waiter, deliver, and when it was queued (monotonic seconds)."""
_OCCURRED_AT, _WAITER, _DELIVER, _QUEUED_AT = 1, 3, 4, 5


class PostgresAccessLog:
    """The port `AccessLog`, a context manager: entering starts the writer, leaving drains it for at most 5 s.

    Durability ``commit``: a row is written when it is committed, and given up when it is not within ``patience``; it is
    then not in the log, unless it was the very answer to the commit that got lost. ``buffered``: a row counts as
    written when it is queued; rows are flushed every ``flush`` and kept while the database is away, and a kill -9 loses
    those not flushed. ``window``: the longest that a settled window gets. ``on_fault`` is called, in the writer's
    thread, when it ends by a fault of our own: from then on no row is taken.
    """

    WRITE = """
        SELECT usage.write_batch(
            %(run)s, %(before)s, %(through)s, %(at)s, %(window_ends)s, %(first_at)s, %(last_at)s, %(salts)s,
            %(instants)s::timestamptz[], %(requests)s::text[], %(places)s::integer[], %(kinds)s::usage.access_kind[])
    """
    WHERE_RUN_IS = """
        SELECT (SELECT written_through FROM usage.writers WHERE run_id = %(run)s),
               coalesce((SELECT settled_through FROM usage.runs WHERE run_id = %(run)s), 0)
    """
    BEGIN_RUN = """
        INSERT INTO usage.writers (run_id, host, started_at, last_seen_at)
        VALUES (%(run)s, %(host)s, clock_timestamp(), clock_timestamp()) ON CONFLICT DO NOTHING
    """
    HEARTBEAT = "UPDATE usage.writers SET last_seen_at = clock_timestamp() WHERE run_id = %(run)s"
    ENSURE_PARTITION = "SELECT usage.ensure_partitions(%(day)s, %(day)s)"
    CONFIGURE = "SELECT set_config('statement_timeout', %(statement)s, false), set_config('timezone', 'UTC', false)"

    def __init__(  # noqa: PLR0913 - settings with defaults
        self,
        conninfo: str,
        *,
        entropy: Entropy,
        run_id: RunId,
        host: str,
        durability: Durability,
        window: timedelta = timedelta(seconds=10),
        flush: timedelta = timedelta(milliseconds=100),
        patience: timedelta = timedelta(seconds=2),
        queue_rows_max: int = 20_000,
        on_fault: Callable[[], None] | None = None,
    ) -> None:
        self._buffered = durability == "buffered"
        self._conninfo = conninfo
        self._entropy = entropy
        self._host = host
        self._arguments = BatchArguments(entropy, window)
        self._flush_seconds = flush.total_seconds()
        self._patience = patience.total_seconds()
        self._queue_rows_max = queue_rows_max
        self._on_fault = on_fault
        self._queue: SimpleQueue[_Queued | None] = SimpleQueue()
        self.queued: Callable[[], int] = self._queue.qsize
        """Rows waiting, without those of the batch in flight."""
        self._closing = Flag()
        self._takes_rows = True
        self._has_ended = False
        self._close_at = float("inf")
        self._onlookers: list[tuple[Any, Deliver]] = []
        self._thread = Thread(target=self._run, name="access-log", daemon=True)
        self._connection: PatientConnection | None = None
        self._cursor: psycopg.Cursor[TupleRow] | None = None  # of all batches: spares a third of a call
        self._run_id = run_id
        self._run_began = False
        self._written = 0  # the run's last committed row, as far as is known
        self._numbered = 0  # the last number given
        self._begun_at = float("inf")  # when the batch in flight was taken (monotonic)
        self._silent_at = float("-inf")  # when silence was last found (monotonic)
        self._doubted_until = float("-inf")  # (monotonic)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def run_id(self) -> RunId:
        """The run that rows go to now; one that was ended because its process stood still gets a successor."""
        return self._run_id

    def takes_rows(self) -> bool:
        """Whether rows are likely to be written: a writer with room that does not stand still nor gave any up."""
        has_room = self._takes_rows and self.queued() < self._queue_rows_max
        return has_room and self._doubted_until <= time.monotonic() < self._begun_at + DOUBT_SECONDS

    def write(self, row: AccessRow) -> "Future[None]":
        """Queues the row; UnavailableError at once when the queue is full or closed, in the future when given up."""
        kind = AccessKind(*row[1:-1])
        if self._buffered:
            self.submit(kind, row.occurred_at, row.request_id, None, _nobody_waits)
            return _DONE
        future: Future[None] = Future()
        self.submit(kind, row.occurred_at, row.request_id, future, _complete)
        return future

    def submit(self, kind: AccessKind, occurred_at: datetime, request_id: str, waiter: Any, deliver: Deliver) -> None:
        """As `write`, for many waiters: ``deliver`` is called once for a batch with its waiters and None or the error.

        A ``waiter`` of None is nobody, and is not told.

        It is called in the writer's thread and must neither raise nor block; so an event loop is woken once for each
        batch. Rows are told together when their ``deliver`` is equal: make it once, not for each row (two `partial`
        objects are never equal). In buffered mode it comes after the flush, and nobody need wait for it.
        """
        self._check_room()
        self._queue.put((kind, occurred_at, request_id, waiter, deliver, time.monotonic()))
        if self._has_ended:
            self._refuse([])

    def await_batch(self, waiter: Any, deliver: Deliver) -> None:
        """Has ``deliver`` called once when the next batch is written or given up. Call it before `submit`.

        Raises UnavailableError as that does: no more wait than rows may be queued, however long none is written.
        """
        self._check_room()
        self._onlookers.append((waiter, deliver))

    def close(self) -> None:
        """Takes no more rows, writes what is queued within 5 s, and gives up the rest."""
        if not self._closing.is_set():
            self._close_at = time.monotonic() + CLOSE_SECONDS
            self._takes_rows = False
            self._closing.set()
            self._queue.put(None)
        self._thread.join()

    def _check_room(self) -> None:
        if not self._takes_rows or self.queued() >= self._queue_rows_max:
            raise UnavailableError("The access log cannot take the request")

    def _run(self) -> None:
        batch: list[_Queued] = []
        try:
            while not self._has_ended:
                batch = self._next_batch()
                if batch:
                    self._begun_at = time.monotonic()
                    self._write(batch)
                    self._begun_at = float("inf")
                    batch = []
                elif not self._has_ended:
                    self._heartbeat()
        finally:  # also after a fault of our own: whoever waits is told, and nothing more is taken
            by_fault = not self._has_ended
            self._takes_rows = False
            self._closing.set()
            self._has_ended = True
            try:
                self._refuse(batch)
                self._disconnect()
            finally:
                if by_fault and self._on_fault is not None:
                    self._on_fault()

    def _next_batch(self) -> list[_Queued]:
        try:
            first = self._queue.get(timeout=HEARTBEAT_SECONDS)
        except Empty:
            return []
        if self._buffered:
            self._wait_for_company()
        get = self._queue.get_nowait  # nobody else takes from it
        entries = [first, *(get() for _ in range(min(self.queued(), BATCH_ROWS_MAX - 1)))]
        batch = [entry for entry in entries if entry is not None]
        self._has_ended = len(batch) < len(entries)
        return batch

    def _wait_for_company(self) -> None:
        """Waits for a whole batch, and no longer than the flush: under load a batch is there much sooner."""
        flush_at = time.monotonic() + self._flush_seconds
        while self.queued() < BATCH_ROWS_MAX and time.monotonic() < flush_at:
            if self._closing.wait(LOOK_SECONDS):
                return

    def _write(self, batch: Sequence[_Queued]) -> None:
        """Writes the batch, or gives it up in time; either way its waiters are told."""
        kinds, instants, requests, *_ = zip(*batch, strict=True)
        values = self._arguments.of(kinds, instants, requests)
        failures = 0
        if not self._buffered and batch[0][_QUEUED_AT] < self._silent_at:
            # It stood behind one whose patience the silence has taken, and would stand as long again.
            self._give_up(batch, "the server has fallen silent")
            return
        while True:
            give_up_at = (
                self._close_at if self._buffered else min(batch[0][_QUEUED_AT] + self._patience, self._close_at)
            )
            try:
                self._commit(len(batch), values, give_up_at)
            except psycopg.Error as error:
                self._disconnect()
                if isinstance(error, psycopg.errors.ConnectionTimeout | SilentError):
                    self._silent_at = time.monotonic()
                if time.monotonic() >= give_up_at:
                    self._give_up(batch, _reason(error))
                    return
                if isinstance(error, psycopg.errors.CheckViolation):
                    self._make_partitions(batch)
                if failures == 0:
                    log.warning("access_log_waits", rows=len(batch), reason=_reason(error))
                # This thread has nothing else to do: rows wait in the queue, which is bounded.
                time.sleep(PAUSE_SECONDS[min(failures, len(PAUSE_SECONDS) - 1)])
                failures += 1
            else:
                if failures:
                    log.info("access_log_writes_again", rows=len(batch))
                self._doubted_until = float("-inf")
                self._tell(batch, None)
                return

    def _commit(self, count: int, values: dict[str, Any], give_up_at: float) -> None:
        connection = self._connected()
        left = STATEMENT_SECONDS + 1 if self._buffered else max(give_up_at - time.monotonic(), 0.5)
        connection.patience_seconds = left
        while True:
            if not self._run_began:
                connection.execute(self.BEGIN_RUN, {"run": self._run_id, "host": self._host})
                self._run_began = True
            through = self._numbered + count
            place = {"run": self._run_id, "before": self._written, "through": through}
            if self._cursor is None:
                self._cursor = connection.cursor()
            (written,) = _row(self._cursor.execute(self.WRITE, place | values))
            if written:
                break
            # An earlier try of these rows moved the run on, or one that was given up, or the settlement ended it.
            writer_at, settled = _row(connection.execute(self.WHERE_RUN_IS, place))
            if (settled if writer_at is None else writer_at) >= through:
                break
            if writer_at is None:
                self._succeed_run()
            else:
                self._written = writer_at
        self._written = self._numbered = through

    def _give_up(self, batch: Sequence[_Queued], reason: str) -> None:
        self._numbered += len(batch)
        self._doubted_until = time.monotonic() + DOUBT_SECONDS
        log.error("access_log_gave_up", rows=len(batch), reason=reason)
        self._tell(batch, UnavailableError("The access log cannot be written", context={"reason": reason}))

    def _make_partitions(self, batch: Sequence[_Queued]) -> None:
        """For a day without its partition: the leader, who makes them ahead, was away, or a clock was set."""
        with suppress(psycopg.Error):  # the next try of the batch fails, too, and is dealt with there
            for day in sorted({queued[_OCCURRED_AT].astimezone(UTC).date() for queued in batch}):
                self._connected().execute(self.ENSURE_PARTITION, {"day": day})

    def _succeed_run(self) -> None:
        self._run_id = RunId.from_entropy(self._entropy.bytes(16))
        self._run_began = False
        self._written = self._numbered = 0

    def _heartbeat(self) -> None:
        """Shows the settlement that the run is alive; a run that it has ended gets a successor with the next row."""
        if not self._run_began:
            return
        try:
            if self._connected().execute(self.HEARTBEAT, {"run": self._run_id}).rowcount == 0:
                self._succeed_run()
        except psycopg.Error:
            self._disconnect()

    def _connected(self) -> PatientConnection:
        if self._connection is None:
            self._connection = PatientConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=2, application_name="keyledger access log"
            )
            self._connection.patience_seconds = self._patience
            # The server gives up a little earlier than we do: then it has said that nothing was written.
            seconds = STATEMENT_SECONDS if self._buffered else 0.9 * self._patience
            self._connection.execute(self.CONFIGURE, {"statement": f"{seconds * 1000:.0f}"})
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._cursor = None

    def _refuse(self, rest: list[_Queued]) -> None:
        with suppress(Empty):
            while True:
                entry = self._queue.get_nowait()
                if entry is not None:
                    rest.append(entry)
        self._tell(rest, UnavailableError("The access log is closed"))

    def _tell(self, batch: Iterable[_Queued], error: UnavailableError | None) -> None:
        waiters: dict[Deliver, list[Any]] = {}
        for queued in batch:
            if queued[_WAITER] is not None:
                waiters.setdefault(queued[_DELIVER], []).append(queued[_WAITER])
        onlookers = self._onlookers[:]
        del self._onlookers[: len(onlookers)]  # who comes meanwhile stands behind these
        for waiter, deliver in onlookers:
            waiters.setdefault(deliver, []).append(waiter)
        for deliver, those in waiters.items():
            deliver(those, error)


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)  # the details may quote a row


def _complete(futures: Sequence["Future[None]"], error: UnavailableError | None) -> None:
    for future in futures:
        if not future.set_running_or_notify_cancel():
            continue  # who waited has gone; the row stays
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _nobody_waits(waiters: Sequence[Any], error: UnavailableError | None) -> None:
    del waiters, error


def _done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


_DONE = _done()


def _row(cursor: psycopg.Cursor[TupleRow]) -> TupleRow:
    row = cursor.fetchone()
    if row is None:
        raise psycopg.DataError("a row was expected")
    return row
