"""(shape) an access log of many rows: what each report costs, in milliseconds over HTTP and in blocks of PostgreSQL."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import psycopg
from bench import Bench, say
from fill import Past, fill
from load import percentile
from psycopg.rows import TupleRow
from seed import Place
from servers import HOST, Server, serving

from application.usage_reports import Interval, LogFilter
from domain.ids import AccountId, KeyId
from infrastructure.postgres.keys import PostgresKeys
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import PostgresUsage
from infrastructure.postgres.usage_reports import PostgresUsageRows

KEYS = 1_002  # a database of its own, since no other case has so many: those of (c) have one key less
AGES = range(1, 31)
PAGE = 50
MONTH = timedelta(days=30)
BLOCKS_MAX = 6_000
"""A page looks at no more than 5,000 rows; whatever a report reads beyond that would grow with the log."""


def shape(bench: Bench) -> dict[str, Any]:
    """(shape)."""
    place = bench.place(KEYS)
    past = fill(place.conninfo, rows=bench.rows, ages=AGES)
    say(f"(shape) {past.rows:,} rows in {past.seconds:.0f} s")
    with psycopg.connect(place.conninfo) as connection:
        row = connection.execute(
            "SELECT pg_database_size(current_database()), coalesce(sum(pg_total_relation_size(inhrelid)), 0)"
            " FROM pg_inherits WHERE inhparent = 'usage.access_log'::regclass"
        ).fetchone()
    reports = _reports(past)
    with serving("keyledger", place, data=bench.data, jobs=False) as server:
        seen = {name: _timed(bench, server, place, path) for name, (path, _) in reports.items()}
    with Database(place.conninfo, size_max=2) as database:
        for name, (_, filter_) in reports.items():
            seen[name] |= _explained(database, past, filter_)
    for name, each in seen.items():
        bench.check(f"{name} reads {each['blocks']:.0f} blocks", each["blocks"] <= BLOCKS_MAX)
    bench.check(
        "a report found nothing to tell", all(each["told"] for name, each in seen.items() if "rare" not in name)
    )
    return {
        "rows": past.rows, "seconds": past.seconds, "bytes": float(row[0]) if row else 0.0,
        "log_bytes": float(row[1]) if row else 0.0, "reports": seen,
    }  # fmt: skip


def _reports(past: Past) -> dict[str, tuple[str, Any]]:
    """By name: where HTTP has it, and the filter of the log that it stands for, or which other report it is."""
    busy, quiet = past.key_ids[0], past.key_ids[-1]
    own = LogFilter(account_id=AccountId(past.account_id))
    middle = datetime.now(UTC).replace(microsecond=0) - MONTH / 2
    logs = {
        "newest page": own,
        "of the busiest key": replace(own, key_id=KeyId(busy)),
        "of a quiet key": replace(own, key_id=KeyId(quiet)),
        "status 200": replace(own, statuses=(200, 200)),
        "status 4xx": replace(own, statuses=(400, 499)),
        "a rare status": replace(own, statuses=(500, 500)),
        "a path": replace(own, path="/api/campaigns"),
        "a path and below": replace(own, path="/api/reports/", is_prefix=True),
        "a rare path": replace(own, path="/api/rare"),
        "a rare status of the busiest key": replace(own, key_id=KeyId(busy), statuses=(500, 500)),
        "a day two weeks ago": replace(own, since=middle, until=middle + timedelta(days=1)),
    }
    found: dict[str, tuple[str, Any]] = {
        "50 keys with their counts": (f"/api/keys?limit={PAGE}", "keys"),
        "a key's month by hour": (f"/api/keys/{busy}/usage?{_query(_month())}&interval=hour", Interval.HOUR),
        "a key's month by day": (f"/api/keys/{busy}/usage?{_query(_month())}&interval=day", Interval.DAY),
        "a key's day by minute": (
            f"/api/keys/{busy}/usage?{_query((middle, middle + timedelta(days=1)))}&interval=minute",
            Interval.MINUTE,
        ),
    }
    return found | {name: (f"/api/access-logs?{_of_filter(filter_)}", filter_) for name, filter_ in logs.items()}


def _month() -> tuple[datetime, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    return now - MONTH, now


def _query(span: tuple[datetime, datetime]) -> str:
    return urlencode({"from": span[0].isoformat(), "to": span[1].isoformat()})


def _of_filter(filter_: LogFilter) -> str:
    asked: dict[str, str] = {"limit": str(PAGE)}
    if filter_.key_id is not None:
        asked["key_id"] = filter_.key_id
    if filter_.statuses is not None:
        first, last = filter_.statuses
        asked["status"] = str(first) if first == last else f"{first // 100}xx"
    if filter_.path is not None:
        asked["path"] = filter_.path + ("*" if filter_.is_prefix else "")
    if filter_.since is not None and filter_.until is not None:
        asked |= {"from": filter_.since.isoformat(), "to": filter_.until.isoformat()}
    return urlencode(asked)


def _timed(bench: Bench, server: Server, place: Place, path: str) -> dict[str, float]:
    """Milliseconds of one request after another, and how much was told."""
    _, key = place.key(0)
    connection = HTTPConnection(HOST, server.port, timeout=60)
    times: list[float] = []
    told = 0
    for _ in range(20 if bench.quick else 100):
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        body = answer.read()
        times.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:  # noqa: PLR2004 - what every report answers
            bench.problems.append(f"{path}: {answer.status} {body[:200]!r}")
            break
        told = len(json.loads(body)["data"])
    connection.close()
    return {"first": times[0], "p50": percentile(times, 0.5), "p95": percentile(times, 0.95), "told": told}


class _Explaining:
    """A database each of whose statements is explained before it is run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.blocks = 0
        self.planning_blocks = 0
        self.plans: list[str] = []

    @contextmanager
    def cursor(self) -> Generator[Any]:
        """As `Database.cursor`."""
        with self._database.cursor() as cursor:
            yield _ExplainingCursor(self, cursor)


class _ExplainingCursor:
    def __init__(self, told: _Explaining, cursor: psycopg.Cursor[TupleRow]) -> None:
        self._told = told
        self._cursor = cursor

    def execute(self, statement: str, parameters: Any = None) -> Any:
        explain = "EXPLAIN (ANALYZE, BUFFERS, SETTINGS, FORMAT JSON) " + statement
        (found,) = self._cursor.execute(explain.encode(), parameters).fetchone() or (None,)
        plan = found[0]["Plan"]
        self._told.blocks += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        planning = found[0].get("Planning", {})
        self._told.planning_blocks += planning.get("Shared Hit Blocks", 0) + planning.get("Shared Read Blocks", 0)
        self._told.plans.append(json.dumps(found))
        return self._cursor.execute(statement.encode(), parameters)


def _explained(database: Database, past: Past, asked: Any) -> dict[str, float]:
    """Blocks read by the statements of a report."""
    explaining: Any = _Explaining(database)
    rows = PostgresUsageRows(explaining)
    first, last = _month()
    if asked == "keys":
        views = PostgresKeys(explaining).page(
            AccountId(past.account_id), environment=None, status=None, before=None, limit=PAGE + 1, now=last
        )
        PostgresUsage(explaining).of_keys([view.key_id for view in views])
    elif asked is Interval.MINUTE:
        middle = last - MONTH / 2
        rows.buckets(KeyId(past.key_ids[0]), asked, middle, middle + timedelta(days=1))
    elif isinstance(asked, Interval):
        rows.buckets(KeyId(past.key_ids[0]), asked, first, last)
    else:
        rows.scan(asked, before=None, limit=PAGE)
    return {"blocks": explaining.blocks, "planning_blocks": explaining.planning_blocks}
