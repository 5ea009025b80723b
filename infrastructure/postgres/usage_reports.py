"""Reports of usage on PostgreSQL: buckets from counts written with the rows, and the log's rows, newest first."""

from collections.abc import Sequence
from datetime import datetime

from psycopg.rows import TupleRow

from application.usage_reports import Bucket, Interval, LogFilter, LogLine, LogScan, Place
from domain.ids import KeyId
from infrastructure.postgres.pool import Database

SCAN_ROWS_MAX = 5_000  # some 10 ms


class PostgresUsageRows:
    """The port `UsageRows`."""

    BUCKETS = """
        SELECT date_trunc(%(interval)s, start, 'UTC') AS bucket, sum(requests)::bigint, sum(failed_attempts)::bigint,
               sum(status_2xx)::bigint, sum(status_3xx)::bigint, sum(status_4xx)::bigint, sum(status_5xx)::bigint
        FROM usage.bucket_counts
        WHERE key_id = %(key_id)s AND width = %(width)s AND start >= %(start)s AND start < %(end)s
        GROUP BY bucket ORDER BY bucket
    """
    # Numbered as they come from the index: the row with the last number that may be looked at is answered whether it
    # matches or not, so that the place where the scan ended is known from the same snapshot.
    OF_KEY = """
        SELECT * FROM (
            SELECT *, row_number() OVER (ORDER BY occurred_at DESC, run_id DESC, seq DESC) AS number,
                   (status BETWEEN %(status_first)s AND %(status_last)s
                    AND (%(path)s::text IS NULL OR endpoint = %(path)s
                         OR (%(is_prefix)s AND starts_with(endpoint, %(path)s)))) AS is_match
            FROM (
                SELECT occurred_at, run_id, seq, method, endpoint, status, key_id, key_hash, client_ip, request_id
                FROM usage.access_log
                WHERE key_id = %(key_id)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
                  AND occurred_at <= %(at)s
                  AND (occurred_at, run_id, seq) < (%(at)s::timestamptz, %(run_id)s::text, %(seq)s::bigint)
                ORDER BY occurred_at DESC, run_id DESC, seq DESC LIMIT %(scan)s
            ) AS scanned
        ) AS told
        WHERE is_match OR number = %(scan)s ORDER BY occurred_at DESC, run_id DESC, seq DESC LIMIT %(limit)s
    """
    # An unproven row is looked up only when its turn comes, and alone (LIMIT 1): joined as a whole, the planner would
    # rather read the log than ask each partition's key.
    OF_ACCOUNT = """
        SELECT * FROM (
            SELECT s.occurred_at, s.run_id, s.seq, coalesce(s.method, l.method) AS method,
                   coalesce(s.endpoint, l.endpoint) AS endpoint, coalesce(s.status, l.status) AS status,
                   coalesce(s.key_id, l.key_id) AS key_id, coalesce(s.key_hash, l.key_hash) AS key_hash,
                   coalesce(s.client_ip, l.client_ip) AS client_ip, coalesce(s.request_id, l.request_id) AS request_id,
                   row_number() OVER (ORDER BY s.occurred_at DESC, s.run_id DESC, s.seq DESC) AS number,
                   (coalesce(s.status, l.status) BETWEEN %(status_first)s AND %(status_last)s
                    AND (%(path)s::text IS NULL OR coalesce(s.endpoint, l.endpoint) = %(path)s
                         OR (%(is_prefix)s AND starts_with(coalesce(s.endpoint, l.endpoint), %(path)s)))) AS is_match
            FROM (
                (SELECT occurred_at, run_id, seq, method, endpoint, status, key_id, key_hash, client_ip, request_id,
                        false AS is_unproven
                 FROM usage.access_log
                 WHERE account_id = %(account_id)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
                   AND occurred_at <= %(at)s
                   AND (occurred_at, run_id, seq) < (%(at)s::timestamptz, %(run_id)s::text, %(seq)s::bigint)
                 ORDER BY occurred_at DESC, run_id DESC, seq DESC LIMIT %(scan)s)
                UNION ALL
                (SELECT occurred_at, run_id, seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true
                 FROM usage.unproven
                 WHERE account_id = %(account_id)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
                   AND occurred_at <= %(at)s
                   AND (occurred_at, run_id, seq) < (%(at)s::timestamptz, %(run_id)s::text, %(seq)s::bigint)
                 ORDER BY occurred_at DESC, run_id DESC, seq DESC LIMIT %(scan)s)
                ORDER BY occurred_at DESC, run_id DESC, seq DESC LIMIT %(scan)s
            ) AS s
            LEFT JOIN LATERAL (
                SELECT method, endpoint, status, key_id, key_hash, client_ip, request_id FROM usage.access_log AS u
                WHERE s.is_unproven AND u.run_id = s.run_id AND u.seq = s.seq AND u.occurred_at = s.occurred_at
                LIMIT 1
            ) AS l ON true
        ) AS told
        WHERE is_match OR number = %(scan)s ORDER BY occurred_at DESC, run_id DESC, seq DESC LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def buckets(self, key_id: KeyId, interval: Interval, start: datetime, end: datetime) -> Sequence[Bucket]:
        """The key's buckets with ``start`` ≤ their start < ``end``, without the empty ones, oldest first."""
        parameters = {
            "key_id": key_id,
            "interval": interval.value,
            "width": "minute" if interval is Interval.MINUTE else "hour",
            "start": start,
            "end": _end_of_bucket(interval, end) or "infinity",
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.BUCKETS, parameters).fetchall()
        return [Bucket(at, requests, failed, tuple(statuses)) for at, requests, failed, *statuses in rows]

    def scan(self, rows: LogFilter, *, before: Place | None, limit: int) -> LogScan:
        """At most ``limit`` matching rows that stand before that place, newest first, of SCAN_ROWS_MAX looked at."""
        first, last = rows.statuses or (0, 32_767)
        parameters = {
            "account_id": rows.account_id,
            "key_id": rows.key_id,
            "since": rows.since or "-infinity",
            "until": rows.until or "infinity",
            "at": before.at if before else "infinity",
            "run_id": before.run_id if before else "",
            "seq": before.seq if before else 0,
            "status_first": first,
            "status_last": last,
            "path": rows.path,
            "is_prefix": rows.is_prefix,
            "scan": max(SCAN_ROWS_MAX, limit + 1),
            "limit": limit + 1,
        }
        statement = self.OF_ACCOUNT if rows.key_id is None else self.OF_KEY
        with self._database.cursor() as cursor:
            found = cursor.execute(statement, parameters).fetchall()
        lines = [_line(row) for row in found if row[-1]]
        if len(lines) > limit:
            return LogScan(lines[:limit], lines[limit - 1].place)
        looked_at_all_it_may = bool(found) and found[-1][-2] == parameters["scan"]
        return LogScan(lines, _place(found[-1]) if looked_at_all_it_may else None)


def _place(row: TupleRow) -> Place:
    return Place(row[0], row[1], row[2])


def _line(row: TupleRow) -> LogLine:
    _, _, _, method, endpoint, status, key_id, key_hash, client_ip, request_id, *_ = row
    return LogLine(_place(row), method, endpoint, status, key_id, key_hash, client_ip, request_id)


def _end_of_bucket(interval: Interval, end: datetime) -> datetime | None:
    """Of a bucket that begins before the end, all counts: a day's last hours may begin after it. None: behind 9999."""
    start = interval.start_of(end)
    try:
        return start + interval.width if start < end else end
    except OverflowError:
        return None
