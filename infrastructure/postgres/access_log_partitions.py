"""The access log's days: made ahead, and dropped whole when they are too old.

A purge works in pieces of some milliseconds, on whatever machine, and rests between them, so that it has about a tenth
of a core.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from threading import Event as Flag
from time import perf_counter
from typing import LiteralString

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from domain.retention import DroppedDay
from infrastructure.postgres.pool import Database, TidyConnection

PIECE_SECONDS = 0.003
PIECE_BLOCKS_MAX = 128  # of the log, 1 MB: some 5,000 rows
PIECE_ROWS_MAX = 500  # to delete
PIECE_OWNERS = 32  # whose rows one piece looks for
REST = 9  # times what the piece before took
REST_SECONDS_MAX = 1.0


class _CutShortError(Exception):
    """The process is to stop; what is left is for the next purge."""


class Pace:
    """How much is done in one piece: as much as takes `PIECE_SECONDS`, and between a sixteenth of ``most`` and that."""

    def __init__(self, most: int) -> None:
        self._least, self._most = most // 16, most
        self.size = self._least

    def took(self, seconds: float) -> None:
        """A piece of that size took so long; one that waited for a core makes the next smaller, for a while."""
        wanted = int(self.size * PIECE_SECONDS / max(seconds, PIECE_SECONDS / 2))  # twice as much at the most
        self.size = min(max(wanted, self._least), self._most)


class AccessLogPartitions:
    """Makes and drops the partitions, one for each day (UTC); run by the leader, harmless in any number."""

    ENSURE = """
        SELECT usage.ensure_partitions(
            (now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + %(days_ahead)s::integer
        )
    """
    CONFIGURE = (
        "SELECT set_config('lock_timeout', '10s', false), set_config('statement_timeout', '0', false),"
        " set_config('timezone', 'UTC', false), set_config('max_parallel_workers_per_gather', '0', false),"
        # By the keys' own index entries, never through a whole table: the BRIN of the buckets widens with each reuse of
        # a page, and a piece must not cost what the table has.
        " set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),"
        " set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)"
    )
    # A purge by hand and the leader's would detach and drop the same day.
    TRY_LOCK = "SELECT pg_try_advisory_lock(7310309)"
    UNLOCK = "SELECT pg_advisory_unlock(7310309)"
    # Detached days are listed, too, whatever is kept now: a purge that was cut short is taken up where it was. The day
    # that is pending comes first: while there is one no other can be detached.
    DAYS = """
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD'), i.inhrelid IS NOT NULL,
               coalesce(i.inhdetachpending, false)
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
        WHERE n.nspname = 'usage' AND c.relkind = 'r' AND c.relname ~ '^access_log_[0-9]{8}$'
          AND (to_date(right(c.relname, 8), 'YYYYMMDD') < %(before)s OR i.inhrelid IS NULL OR i.inhdetachpending)
        ORDER BY coalesce(i.inhdetachpending, false) DESC, c.relname
    """
    # One probe of the primary key for each run that is not over, its last row; ended runs are settled. As a join of the
    # rows it was expected to meet one soon, and read the whole index.
    UNSETTLED = sql.SQL("""
        SELECT EXISTS (
            SELECT FROM usage.writers AS w LEFT JOIN usage.runs AS r ON r.run_id = w.run_id
            WHERE (SELECT max(l.seq) FROM {part} AS l WHERE l.run_id = w.run_id) > coalesce(r.settled_through, 0)
        )
    """)
    # CONCURRENTLY: writers and readers of the other days go on; it cannot run inside a transaction.
    DETACH = sql.SQL("ALTER TABLE usage.access_log DETACH PARTITION {part} CONCURRENTLY")
    FINALIZE = sql.SQL("ALTER TABLE usage.access_log DETACH PARTITION {part} FINALIZE")
    # Nobody writes into a day that has left the log, so the pieces add up.
    COUNT = sql.SQL("""
        SELECT count(*), min(occurred_at), max(occurred_at) FROM {part}
        WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid
    """)
    BLOCKS = "SELECT pg_relation_size(%(part)s::regclass) / current_setting('block_size')::bigint"
    DROP = sql.SQL("DROP TABLE {part}")
    # Each key's minutes by the primary key: (key_id, width, start, run_id).
    KEYS = "SELECT key_id FROM views.keys WHERE key_id > %(after)s ORDER BY key_id LIMIT %(limit)s"
    FORGET_MINUTES = """
        DELETE FROM usage.buckets WHERE ctid = ANY (ARRAY(
            SELECT b.ctid FROM unnest(%(owners)s::text[]) AS k (key_id) JOIN usage.buckets AS b
              ON b.key_id = k.key_id AND b.width = 'minute' AND b.start < %(before)s::date::timestamp AT TIME ZONE 'UTC'
            LIMIT %(limit)s
        ))
    """
    # Each account's entries by the primary key: (account_id, occurred_at, run_id, seq).
    ACCOUNTS = "SELECT account_id FROM views.accounts WHERE account_id > %(after)s ORDER BY account_id LIMIT %(limit)s"
    FORGET_UNPROVEN = """
        DELETE FROM usage.unproven WHERE ctid = ANY (ARRAY(
            SELECT u.ctid FROM unnest(%(owners)s::text[]) AS a (account_id) JOIN usage.unproven AS u
              ON u.account_id = a.account_id
             AND u.occurred_at < %(before)s::date::timestamp AT TIME ZONE 'UTC'
            LIMIT %(limit)s
        ))
    """

    def __init__(self, database: Database, *, rest: Callable[[float], bool] | None = None) -> None:
        """``rest`` waits so many seconds, or less, and answers whether a purge is to end where it is."""
        self._database = database
        self._rest = rest or Flag().wait

    def ensure_partitions(self, *, days_ahead: int) -> int:
        """Makes today's partition and those of so many days ahead that are missing; answers how many it made."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.ENSURE, {"days_ahead": days_ahead}).fetchone()
        return 0 if row is None else row[0]

    def drop_partitions_before(self, day: date, declare: Callable[[DroppedDay], None]) -> Sequence[DroppedDay]:
        """Drops the days before that one, oldest first, and answers them; a day with unsettled rows stays.

        A day whose detaching was cut short goes before all others. While another purge runs there is nothing to do.

        ``declare`` is called with each day when it has left the log and before its rows are gone, so that no absence is
        undeclared; a purge that is cut short between the two declares that day again. It has its own connection, for it
        takes its time; psycopg's errors pass.
        """
        with TidyConnection.connect(self._database.conninfo, autocommit=True, connect_timeout=5) as connection:
            connection.execute(self.CONFIGURE)
            if not connection.execute(self.TRY_LOCK).fetchall()[0][0]:
                return []
            try:
                return self._drop_before(connection, day, declare)
            finally:
                # Left to the end of the connection, it would be free only when the server has noticed.
                if not connection.closed:
                    connection.execute(self.UNLOCK)

    def _drop_before(
        self, connection: Connection[TupleRow], day: date, declare: Callable[[DroppedDay], None]
    ) -> list[DroppedDay]:
        dropped: list[DroppedDay] = []
        kept = day
        try:
            for name, date_, attached, pending in connection.execute(self.DAYS, {"before": day}).fetchall():
                part = sql.Identifier("usage", name)
                if attached and not self._detach(connection, part, pending=pending):
                    kept = min(kept, date_)
                    continue
                leaving = self._counted(connection, name, date_)
                declare(leaving)
                connection.execute(self.DROP.format(part=part))
                dropped.append(leaving)
            if dropped:
                # What stood beside the rows alone goes with them: the hours and the totals stay.
                before = min(max(each.day for each in dropped) + timedelta(days=1), kept)
                self._forget(connection, self.KEYS, self.FORGET_MINUTES, before)
                self._forget(connection, self.ACCOUNTS, self.FORGET_UNPROVEN, before)
        except _CutShortError:
            return dropped
        return dropped

    def _counted(self, connection: Connection[TupleRow], name: str, day: date) -> DroppedDay:
        count = self.COUNT.format(part=sql.Identifier("usage", name))
        blocks: int = connection.execute(self.BLOCKS, {"part": f"usage.{name}"}).fetchall()[0][0]
        rows, times, first, pace = 0, list[datetime](), 0, Pace(PIECE_BLOCKS_MAX)
        while first < blocks:
            end = first + pace.size
            began = perf_counter()
            piece = {"first": f"({first},0)", "end": f"({end},0)"}
            counted, first_at, last_at = connection.execute(count, piece).fetchall()[0]
            seconds = perf_counter() - began
            rows, first = rows + counted, end
            times = [min([*times, first_at]), max([*times, last_at])] if counted else times
            pace.took(seconds)
            self._rest_after(seconds)
        return DroppedDay(day, rows, min(times, default=None), max(times, default=None))

    def _forget(
        self, connection: Connection[TupleRow], owners: LiteralString, forget: LiteralString, day: date
    ) -> None:
        """Deletes with ``forget``, for some owners after others, what is older than the day."""
        after, pace = "", Pace(PIECE_ROWS_MAX)
        while found := [row[0] for row in connection.execute(owners, {"after": after, "limit": PIECE_OWNERS})]:
            after, is_full = found[-1], True
            while is_full:
                began = perf_counter()
                values = {"owners": found, "before": day, "limit": pace.size}
                is_full = connection.execute(forget, values).rowcount == pace.size
                seconds = perf_counter() - began
                if is_full:  # a smaller one says nothing of how long a whole one takes
                    pace.took(seconds)
                self._rest_after(seconds)

    def _rest_after(self, seconds: float) -> None:
        if self._rest(min(REST * seconds, REST_SECONDS_MAX)):
            raise _CutShortError

    def _detach(self, connection: Connection[TupleRow], part: sql.Identifier, *, pending: bool) -> bool:
        if pending:
            connection.execute(self.FINALIZE.format(part=part))
            return True
        if connection.execute(self.UNSETTLED.format(part=part)).fetchall()[0][0]:
            return False
        connection.execute(self.DETACH.format(part=part))
        return True
