"""The connections: one bounded pool per process, bounded waits, and a lost database said in one word."""

import select
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from traceback import clear_frames
from typing import Any, Self

import psycopg
from psycopg import Connection, Cursor
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from domain.errors import UnavailableError

DOUBT_SECONDS = 0.5
# A host that is gone without a word is noticed within some 10 s; by the system's defaults it takes 15 minutes to two
# hours. One that is there answers these itself, however long a statement takes.
KEEPALIVES = {"keepalives_idle": "5", "keepalives_interval": "1", "keepalives_count": "5", "tcp_user_timeout": "10000"}
_GONE = "The database cannot be reached"


class TidyConnection(Connection[TupleRow]):
    """A connection that leaves no socket behind when it cannot be made.

    psycopg's error holds its traceback, that the frame of the attempt, and that the error and the half-open socket: it
    would stay open until the garbage collector runs, which it hardly does in a serving process. A server that stands
    still for 30 s was left with some 80 of them, each of which takes one of its places for connections.
    """

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """As psycopg's, with `KEEPALIVES` where ``conninfo`` does not say otherwise."""
        given = conninfo_to_dict(conninfo)
        own = {name: value for name, value in KEEPALIVES.items() if name not in given}
        try:
            return super().connect(conninfo, **own, **kwargs)
        except psycopg.Error as error:
            clear_frames(error.__traceback__)
            raise


class SilentError(psycopg.OperationalError):
    """The server keeps its connection and says nothing."""


def _nobody_doubts() -> bool:
    return False


class PatientConnection(TidyConnection):
    """A connection that gives up a statement after ``patience`` seconds, also when its peer has fallen silent.

    statement_timeout is the server's promise; a server that is stopped, or a line that swallows packets, keeps none.
    ``is_silent`` is asked twice a second whether the server answers nobody: nobody waits for that one any longer.
    """

    patience_seconds = 10.0
    is_silent: Callable[[], bool] = staticmethod(_nobody_doubts)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's, with a bound where it has none; SilentError, and closed, when it is reached."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        left = self.patience_seconds
        give_up_at = time.monotonic() + left
        while True:
            try:
                return super().wait(gen, interval, min(left, DOUBT_SECONDS))
            except psycopg.errors._WaitTimeout as error:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - psycopg's only word for it
                if left <= 0:
                    self.close()
                    raise SilentError("the server has fallen silent") from error
            # In the end it is looked once more whether the answer has come after all.
            left = 0.0 if self.is_silent() else max(give_up_at - time.monotonic(), 0.0)


class _WarmFirst(ConnectionPool[PatientConnection]):
    """Gives the connection that came back last, which has its statements prepared and its server's caches warm.

    The library gives the one that has rested the longest: after a burst that opened all of them, each next command
    would meet one that has not seen its like, and plan it anew.
    """

    def _get_ready_connection(self, timeout: float | None) -> PatientConnection | None:
        self._pool.rotate(1)  # under the pool's lock; what rests stays in its order, and the longest is closed first
        return super()._get_ready_connection(timeout)

    @staticmethod
    def check_connection(conn: PatientConnection) -> None:
        """What `check` asks each that rests. The library's own is a round-trip, which a silent server never ends."""
        _look_at(conn)


class Database:
    """A pool of autocommit connections to one PostgreSQL.

    ``wait``: how long a caller waits for a free connection; ``statement``: how long one statement may take. Whatever
    breaks a connection is UnavailableError to the caller; so is a server that answers nobody, within some 3 s, however
    long its statement may take.
    """

    # One processor for a statement: settling a window had two more processes started, which requests waited behind.
    CONFIGURE = """
        SELECT set_config('statement_timeout', %(statement)s, false), set_config('lock_timeout', %(statement)s, false),
               set_config('idle_in_transaction_session_timeout', %(statement)s, false),
               set_config('max_parallel_workers_per_gather', '0', false), set_config('timezone', 'UTC', false)
    """

    def __init__(
        self,
        conninfo: str,
        *,
        size_max: int,
        wait: timedelta = timedelta(seconds=2),
        statement: timedelta = timedelta(seconds=10),
    ) -> None:
        self.conninfo = conninfo
        self._statement_ms = str(int(statement.total_seconds() * 1000))
        self._patience_seconds = statement.total_seconds() + 1  # the server says it first
        self._asking = Lock()
        self._asked_at = float("-inf")
        self._was_silent = False
        self._pool = _WarmFirst(
            conninfo,
            connection_class=PatientConnection,
            kwargs={"autocommit": True, "connect_timeout": 5, "application_name": "keyledger"},
            min_size=1,
            max_size=size_max,
            max_waiting=size_max * 32,
            timeout=wait.total_seconds(),
            reconnect_timeout=0,
            configure=self._configure,
            check=self._check,
            open=False,
        )

    def __enter__(self) -> Self:
        self._pool.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close(timeout=5)

    def _configure(self, connection: PatientConnection) -> None:
        connection.patience_seconds = self._patience_seconds
        connection.is_silent = self._is_silent
        connection.execute(self.CONFIGURE, {"statement": self._statement_ms})

    def _check(self, connection: Connection[TupleRow]) -> None:
        """Raises, and replaces all that ended, when the server has ended this one while it rested."""
        try:
            _look_at(connection)
        except psycopg.Error:
            self._pool.check()
            raise

    def _is_silent(self) -> bool:
        """Whether PostgreSQL answers nobody: it is asked for a connection. Who asks at the same time shares the answer.

        A slow statement costs a connection twice a second.
        """
        doubted_at = time.monotonic()
        with self._asking:
            if self._asked_at < doubted_at - DOUBT_SECONDS:
                self._was_silent = _gives_no_connection(self.conninfo)
                self._asked_at = time.monotonic()
            return self._was_silent

    @contextmanager
    def connection(self) -> Generator[PatientConnection]:
        """A connection outside any transaction: each statement commits by itself."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            # What broke one connection has most likely broken the idle ones too: they are replaced now, so that a
            # restart of PostgreSQL costs one refusal and not one for each connection. Of silence nothing can be seen on
            # them, and to ask each would take as long again: all are replaced.
            if isinstance(error, SilentError):
                self._pool.drain()
            else:
                self._pool.check()
            raise UnavailableError(_GONE, context={"reason": str(error)}) from error

    @contextmanager
    def cursor(self) -> Generator[Cursor[TupleRow]]:
        """A cursor outside any transaction."""
        with self.connection() as connection, connection.cursor() as cursor:
            yield cursor

    @contextmanager
    def transaction(self) -> Generator[Cursor[TupleRow]]:
        """A cursor inside a transaction that commits when the block ends well."""
        with self.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            yield cursor

    @contextmanager
    def unhurried_transaction(self) -> Generator[Cursor[TupleRow]]:
        """As `transaction`, but each statement may take as long as it takes, while the server answers anybody."""
        with self.connection() as connection:
            patience, connection.patience_seconds = connection.patience_seconds, float("inf")
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.execute("SET LOCAL statement_timeout = 0")
                    yield cursor
            finally:
                connection.patience_seconds = patience


def _gives_no_connection(conninfo: str) -> bool:
    try:
        TidyConnection.connect(conninfo, connect_timeout=2, application_name="keyledger asks").close()
    except psycopg.errors.ConnectionTimeout:
        return True
    except psycopg.Error:  # a refusal is an answer, too: there may be too many connections
        return False
    return False


def _look_at(connection: Connection[TupleRow]) -> None:
    """OperationalError at its end. No round-trip: a server that ends a connection has said so, or closed the socket."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while poll.poll(0):
        connection.pgconn.consume_input()
