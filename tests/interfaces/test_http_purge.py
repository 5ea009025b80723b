"""A day leaves the access log while requests come in: what is gone, what is kept, and that nobody notices."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from interfaces.bootstrap import jobs
from tests.kit.access_rows import PastRow, put_rows
from tests.kit.http_server import serving
from tests.kit.load import Load
from tests.kit.service import eventually

ROWS_OF_A_DAY = 2_000
TOTALS = "INSERT INTO usage.totals VALUES (%(key)s, %(requests)s, 0, %(first)s, %(last)s) RETURNING 1"
DAYS = """
    SELECT (occurred_at AT TIME ZONE 'UTC')::date, count(*) FROM usage.access_log
    WHERE key_id = %(key)s GROUP BY 1 ORDER BY 1
"""
PURGED = """
    SELECT convert_from(state, 'UTF8')::json ->> 'rows' FROM ledger.events WHERE topic = 'access_log.purged'
"""


def test_a_day_is_purged_under_load(conninfo: str, tmp_path: Path) -> None:
    """Day 91 is gone and declared, day 89 is whole, lifetime counts are the same; every request is answered."""
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    past = [noon - timedelta(days=age) for age in (91, 89)]
    with serving(conninfo, tmp_path / "log") as own:
        key = own.back.key(own.back.account())
        put_rows(conninfo, (PastRow(day, key.id, key.account_id) for day in past for _ in range(ROWS_OF_A_DAY)))
        own.rows(TOTALS, {"key": key.id, "requests": 2 * ROWS_OF_A_DAY, "first": past[0], "last": past[1]})
        with Load(own.port, key.secret) as load, own.client(own.back.key(key.account_id).secret) as owner:
            eventually(lambda: load.count() >= 50, "requests are answered")
            assert jobs(own.back.core)["retention"].run() == 1
            since = len(load.answers)
            eventually(lambda: load.count(since=since) >= 50, "requests are answered")
            load.stop()
            told = owner.get(key.path).json
        answered = load.count()
        assert len(load.answers) == answered
        assert load.unanswered == []
        days = dict(own.rows(DAYS, {"key": key.id}))
        assert days.pop(past[1].date()) == ROWS_OF_A_DAY
        assert past[0].date() not in days
        assert sum(days.values()) == answered
        assert told["request_count"] == 2 * ROWS_OF_A_DAY + answered
        assert own.rows(PURGED) == [(str(ROWS_OF_A_DAY),)]
