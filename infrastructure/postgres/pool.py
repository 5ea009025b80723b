"""The connections: one bounded pool per process, bounded waits, and a lost database said in one word."""

import select
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from traceback import clear_frames
from typing import Any, Self

import psycopg
from psycopg import Connection, Cursor
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from domain.errors import UnavailableError

_GONE = "The database cannot be reached"


class TidyConnection(Connection[TupleRow]):
    """A connection that leaves no socket behind when it cannot be made.

    psycopg's error holds its traceback, that the frame of the attempt, and that the error and the half-open socket: it
    would stay open until the garbage collector runs, which it hardly does in a serving process. A server that stands
    still for 30 s was left with some 80 of them, each of which takes one of its places for connections.
    """

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """As psycopg's."""
        try:
            return super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            clear_frames(error.__traceback__)
            raise


class PatientConnection(TidyConnection):
    """A connection that gives up a statement after ``patience`` seconds, also when its peer has fallen silent.

    statement_timeout is the server's promise; a server that is stopped, or a line that swallows packets, keeps none.
    """

    patience_seconds = 10.0

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's, with a bound where it has none; OperationalError, and closed, when it is reached."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience_seconds)
        except psycopg.errors._WaitTimeout as error:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - psycopg's only word for it
            self.close()
            raise psycopg.OperationalError("the server has fallen silent") from error


class _WarmFirst(ConnectionPool[Connection[TupleRow]]):
    """Gives the connection that came back last, which has its statements prepared and its server's caches warm.

    The library gives the one that has rested the longest: after a burst that opened all of them, each next command
    would meet one that has not seen its like, and plan it anew.
    """

    def _get_ready_connection(self, timeout: float | None) -> Connection[TupleRow] | None:
        self._pool.rotate(1)  # under the pool's lock; what rests stays in its order, and the longest is closed first
        return super()._get_ready_connection(timeout)


class Database:
    """A pool of autocommit connections to one PostgreSQL.

    ``wait``: how long a caller waits for a free connection; ``statement``: how long one statement may take. Whatever
    breaks a connection is UnavailableError to the caller.
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

    def _configure(self, connection: Connection[TupleRow]) -> None:
        connection.execute(self.CONFIGURE, {"statement": self._statement_ms})

    def _check(self, connection: Connection[TupleRow]) -> None:
        """Raises, and replaces all that ended, when the server has ended this one while it rested."""
        try:
            _look_at(connection)
        except psycopg.Error:
            self._pool.check()
            raise

    @contextmanager
    def connection(self) -> Generator[Connection[TupleRow]]:
        """A connection outside any transaction: each statement commits by itself."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            # What broke one connection has most likely broken the idle ones too: they are replaced now, so that a
            # restart of PostgreSQL costs one refusal and not one for each connection.
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


def _look_at(connection: Connection[TupleRow]) -> None:
    """OperationalError at its end. No round-trip: a server that ends a connection has said so, or closed the socket."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while poll.poll(0):
        connection.pgconn.consume_input()
