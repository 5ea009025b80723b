"""The access log's days: made ahead, and dropped whole when they are too old."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from domain.retention import DroppedDay
from infrastructure.postgres.pool import Database


class AccessLogPartitions:
    """Makes and drops the partitions, one for each day (UTC); run by the leader, harmless in any number."""

    ENSURE = """
        SELECT usage.ensure_partitions(
            (now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + %(days_ahead)s::integer
        )
    """
    CONFIGURE = (
        "SELECT set_config('lock_timeout', '10s', false), set_config('statement_timeout', '0', false),"
        " set_config('timezone', 'UTC', false)"
    )
    # A purge by hand and the leader's would detach and drop the same day.
    TRY_LOCK = "SELECT pg_try_advisory_lock(7310309)"
    UNLOCK = "SELECT pg_advisory_unlock(7310309)"
    # Detached days are listed, too: a purge that was cut short is taken up where it was.
    DAYS = """
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD'), i.inhrelid IS NOT NULL,
               coalesce(i.inhdetachpending, false)
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
        WHERE n.nspname = 'usage' AND c.relkind = 'r' AND c.relname ~ '^access_log_[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < %(before)s
        ORDER BY c.relname
    """
    # One probe of the primary key for each run that is not over; ended runs are settled.
    UNSETTLED = sql.SQL("""
        SELECT EXISTS (
            SELECT FROM usage.writers AS w LEFT JOIN usage.runs AS r ON r.run_id = w.run_id
            JOIN {part} AS l ON l.run_id = w.run_id AND l.seq > coalesce(r.settled_through, 0)
        )
    """)
    # CONCURRENTLY: writers and readers of the other days go on; it cannot run inside a transaction.
    DETACH = sql.SQL("ALTER TABLE usage.access_log DETACH PARTITION {part} CONCURRENTLY")
    FINALIZE = sql.SQL("ALTER TABLE usage.access_log DETACH PARTITION {part} FINALIZE")
    COUNT = sql.SQL("SELECT count(*), min(occurred_at), max(occurred_at) FROM {part}")
    DROP = sql.SQL("DROP TABLE {part}")
    FORGET_MINUTES = """
        DELETE FROM usage.buckets WHERE width = 'minute' AND start < %(before)s::date::timestamp AT TIME ZONE 'UTC'
    """
    FORGET_UNPROVEN = """
        DELETE FROM usage.unproven WHERE occurred_at < %(before)s::date::timestamp AT TIME ZONE 'UTC'
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure_partitions(self, *, days_ahead: int) -> int:
        """Makes today's partition and those of so many days ahead that are missing; answers how many it made."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.ENSURE, {"days_ahead": days_ahead}).fetchone()
        return 0 if row is None else row[0]

    def drop_partitions_before(self, day: date, declare: Callable[[DroppedDay], None]) -> Sequence[DroppedDay]:
        """Drops the days before that one, oldest first, and answers them; a day with unsettled rows stays.

        While another purge runs there is nothing to do.

        ``declare`` is called with each day when it has left the log and before its rows are gone, so that no absence is
        undeclared; a purge that is cut short between the two declares that day again. It has its own connection, for
        counting a day may take long; psycopg's errors pass.
        """
        with psycopg.connect(self._database.conninfo, autocommit=True, connect_timeout=5) as connection:
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
        for name, date_, attached, pending in connection.execute(self.DAYS, {"before": day}).fetchall():
            part = sql.Identifier("usage", name)
            if attached and not self._detach(connection, part, pending=pending):
                continue
            rows, first_at, last_at = connection.execute(self.COUNT.format(part=part)).fetchall()[0]
            leaving = DroppedDay(date_, rows, first_at, last_at)
            declare(leaving)
            connection.execute(self.DROP.format(part=part))
            dropped.append(leaving)
        if dropped:
            # What stood beside the rows alone goes with them: the hours and the totals stay.
            connection.execute(self.FORGET_MINUTES, {"before": dropped[-1].day + timedelta(days=1)})
            connection.execute(self.FORGET_UNPROVEN, {"before": dropped[-1].day + timedelta(days=1)})
        return dropped

    def _detach(self, connection: Connection[TupleRow], part: sql.Identifier, *, pending: bool) -> bool:
        if pending:
            connection.execute(self.FINALIZE.format(part=part))
            return True
        if connection.execute(self.UNSETTLED.format(part=part)).fetchall()[0][0]:
            return False
        connection.execute(self.DETACH.format(part=part))
        return True
