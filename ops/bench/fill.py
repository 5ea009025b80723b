"""A past for the access log, made in SQL: rows of many days, and the counts that their writers would have left."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import LiteralString

import psycopg
from bench import say
from psycopg import sql

KEYS = 100
"""So many keys of the first account share the rows; the first of them has a third."""

# Yesterday's is there, and empty.
CLEAR = sql.SQL("DROP TABLE IF EXISTS usage.{part}")
# Filled before it is attached: its indexes are then sorted and not inserted into.
MAKE = sql.SQL("CREATE TABLE usage.{part} (LIKE usage.access_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
ROWS = sql.SQL("""
    INSERT INTO usage.{part} (
        run_id, seq, salt, occurred_at, method, endpoint, status, outcome, accepted, key_id, account_id, key_hash,
        client_ip, request_id
    )
    SELECT %(run)s, n, '\\x00112233445566778899aabbccddeeff',
           %(day)s::timestamptz + n * (86399000000 / %(rows)s::bigint) * interval '1 microsecond',
           'GET', CASE WHEN hash %% 1000003 = 7 THEN '/api/rare' WHEN hash %% 3 = 0 THEN '/api/campaigns'
                       ELSE '/api/reports/' || hash %% 50 END,
           CASE WHEN hash %% 1000003 = 9 THEN 500 WHEN hash %% 64 = 1 THEN 401 WHEN hash %% 64 = 2 THEN 403
                ELSE 200 END,
           CASE WHEN hash %% 64 = 1 THEN 'forged' WHEN hash %% 64 = 2 THEN 'insufficient_scope' ELSE 'ok' END,
           hash %% 64 NOT IN (1, 2), k.key_id, CASE WHEN hash %% 64 = 1 THEN NULL ELSE k.account_id END,
           md5(k.key_id), '203.0.113.' || hash %% 250, 'req_' || lpad(n::text, 22, '0')
    FROM (
        SELECT n, (hashint8(n + %(salt)s::bigint) & 2147483647) AS hash FROM generate_series(1, %(rows)s::bigint) AS n
    ) AS r
    JOIN unnest(%(keys)s::text[], %(accounts)s::text[]) WITH ORDINALITY AS k (key_id, account_id, place)
      ON k.place = CASE WHEN (hash / 64) %% 3 = 0 THEN 1 ELSE 1 + (hash / 192) %% %(count)s::integer END
""")
ATTACH = sql.SQL("ALTER TABLE usage.access_log ATTACH PARTITION usage.{part} FOR VALUES FROM ({first}) TO ({last})")
BUCKETS = sql.SQL("""
    INSERT INTO usage.buckets (
        key_id, width, start, run_id, requests, failed_attempts, status_2xx, status_3xx, status_4xx, status_5xx
    )
    SELECT key_id, {width}, date_bin({step}::interval, occurred_at, 'epoch'), run_id,
           count(*) FILTER (WHERE accepted), count(*) FILTER (WHERE NOT accepted),
           count(*) FILTER (WHERE status < 300), 0, count(*) FILTER (WHERE status BETWEEN 400 AND 499),
           count(*) FILTER (WHERE status >= 500)
    FROM usage.{part} GROUP BY 1, 2, 3, 4
""")
UNPROVEN = sql.SQL("""
    INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
    SELECT k.account_id, r.occurred_at, r.run_id, r.seq
    FROM usage.{part} AS r JOIN views.keys AS k ON k.key_id = r.key_id WHERE r.account_id IS NULL
""")
TOTALS: LiteralString = """
    INSERT INTO usage.totals AS t (key_id, requests, failed_attempts, first_used_at, last_used_at)
    SELECT key_id, sum(requests), sum(failed_attempts), min(start), max(start)
    FROM usage.buckets WHERE width = 'hour' AND run_id = %(run)s GROUP BY key_id
    ON CONFLICT (key_id) DO UPDATE SET
        requests = t.requests + excluded.requests, failed_attempts = t.failed_attempts + excluded.failed_attempts,
        first_used_at = least(t.first_used_at, excluded.first_used_at),
        last_used_at = greatest(t.last_used_at, excluded.last_used_at)
"""
SETTLED: LiteralString = "INSERT INTO usage.runs VALUES (%(run)s, 1, %(rows)s, true)"
KEYS_OF_FIRST: LiteralString = """
    SELECT key_id, account_id FROM views.keys
    WHERE account_id = (SELECT min(account_id) FROM views.keys) ORDER BY created_position LIMIT %(count)s
"""


@dataclass(frozen=True)
class Past:
    """What was made: the account's keys, the busiest first, and the days, the oldest first."""

    account_id: str
    key_ids: list[str]
    days: list[date]
    rows: int
    seconds: float


def fill(conninfo: str, *, rows: int, ages: range) -> Past:
    """So many rows, spread over the days of these ages that have no partition yet; counted, and as if settled."""
    began = time.monotonic()
    today = datetime.now(UTC).date()
    days = sorted(today - timedelta(days=age) for age in ages)
    each = rows // len(days)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET timezone = 'UTC'")
        found = connection.execute(KEYS_OF_FIRST, {"count": KEYS}).fetchall()
        keys, accounts = [row[0] for row in found], [row[1] for row in found]
        for number, day in enumerate(days):
            given = {"keys": keys, "accounts": accounts, "count": len(keys), "salt": number * each}
            _fill_day(connection, day, each, given)
            say(f"{(number + 1) * each:,} rows, {time.monotonic() - began:.0f} s")
        connection.execute("VACUUM (ANALYZE) usage.access_log")
        connection.execute("VACUUM (ANALYZE) usage.buckets")
        connection.execute("VACUUM (ANALYZE) usage.unproven")
        connection.execute("CHECKPOINT")
    return Past(accounts[0], keys, days, each * len(days), time.monotonic() - began)


def _fill_day(
    connection: psycopg.Connection[tuple[object, ...]], day: date, rows: int, given: dict[str, object]
) -> None:
    part = {"part": sql.Identifier(f"access_log_{day:%Y%m%d}")}
    values = given | {"run": f"run_{day:%Y%m%d}", "day": day, "rows": rows}
    with connection.transaction():
        connection.execute(CLEAR.format(**part))
        connection.execute(MAKE.format(**part))
        connection.execute(ROWS.format(**part), values)
        bounds = {"first": sql.Literal(f"{day}T00:00Z"), "last": sql.Literal(f"{day + timedelta(days=1)}T00:00Z")}
        connection.execute(ATTACH.format(**part, **bounds))
        for width, step in _widths():
            connection.execute(BUCKETS.format(**part, width=sql.Literal(width), step=sql.Literal(step)))
        connection.execute(UNPROVEN.format(**part))
        connection.execute(TOTALS, values)
        connection.execute(SETTLED, values)


def _widths() -> Iterator[tuple[str, str]]:
    yield "minute", "1 minute"
    yield "hour", "1 hour"
