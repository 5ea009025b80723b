"""`/api/keys/{id}/usage`: every request in its bucket, once, from the first instant of a bucket to before the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.interfaces.conftest import Owner
from tests.kit.access_rows import PastRow, put_rows
from tests.kit.http_server import HttpServer

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
TICK = timedelta(microseconds=1)
WIDTHS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


def asked(owner: Owner, interval: str, start: datetime, end: datetime) -> Any:
    """What the route answers about the owner's key."""
    query = f"interval={interval}&from={start:%Y-%m-%dT%H:%M:%SZ}&to={end:%Y-%m-%dT%H:%M:%SZ}"
    heard = owner.client.get(f"{owner.key.path}/usage?{query}")
    assert heard.status == 200, heard
    return heard.json


def past(owner: Owner, *instants: datetime, **values: Any) -> list[PastRow]:
    """A row of the owner's key at each instant."""
    return [PastRow(at, owner.key.id, owner.key.account_id, **values) for at in instants]


@pytest.mark.parametrize("interval", WIDTHS)
def test_a_row_is_in_the_bucket_that_holds_its_instant(server: HttpServer, owner: Owner, interval: str) -> None:
    """At each edge, midnight included: the first instant belongs to the bucket, the first of the next does not."""
    width = WIDTHS[interval]
    edges = [MIDNIGHT - width - TICK, MIDNIGHT - width, MIDNIGHT - TICK, MIDNIGHT, MIDNIGHT + width - TICK]
    put_rows(server.conninfo, past(owner, *edges, MIDNIGHT + width))
    told = asked(owner, interval, MIDNIGHT - width, MIDNIGHT + width)
    assert [(each["start"], each["requests"]) for each in told["data"]] == [
        ((MIDNIGHT - width).isoformat().replace("+00:00", "Z"), 2),
        ("2026-03-02T00:00:00Z", 2),
    ]
    assert told["totals"] == {"requests": 4, "failed_attempts": 0}


def test_empty_buckets_are_there(server: HttpServer, owner: Owner) -> None:
    """Three hours with one request between them: three buckets, zeros in two."""
    put_rows(server.conninfo, past(owner, MIDNIGHT + timedelta(minutes=90)))
    told = asked(owner, "hour", MIDNIGHT, MIDNIGHT + timedelta(hours=3))
    assert [each["requests"] for each in told["data"]] == [0, 1, 0]
    assert told["data"][2]["statuses"] == {"2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0}


def test_bounds_inside_a_bucket_take_it_whole(server: HttpServer, owner: Owner) -> None:
    """From 00:30 to 01:30 by hour, and within one day by day: whole buckets, also what lies outside the bounds."""
    put_rows(server.conninfo, past(owner, MIDNIGHT, MIDNIGHT + timedelta(minutes=100), MIDNIGHT + timedelta(hours=20)))
    half = timedelta(minutes=30)
    told = asked(owner, "hour", MIDNIGHT + half, MIDNIGHT + 3 * half)
    assert [each["requests"] for each in told["data"]] == [1, 1]
    told = asked(owner, "day", MIDNIGHT + half, MIDNIGHT + 3 * half)
    assert [each["requests"] for each in told["data"]] == [3]


@pytest.mark.parametrize("interval", WIDTHS)
@pytest.mark.parametrize("past_the_border", [timedelta(), timedelta(seconds=1)])
def test_an_end_alone_makes_24_buckets(owner: Owner, interval: str, past_the_border: timedelta) -> None:
    """The last one that begins before the end and the 23 before it, whether the end is a bucket's border or not."""
    told = owner.client.get(f"{owner.key.path}/usage?interval={interval}&to={MIDNIGHT + past_the_border:%FT%TZ}").json
    starts = [datetime.fromisoformat(each["start"]) for each in told["data"]]
    last = MIDNIGHT if past_the_border else MIDNIGHT - WIDTHS[interval]
    assert starts == [last - number * WIDTHS[interval] for number in range(23, -1, -1)]


def test_outcomes_and_answers_are_counted_apart(server: HttpServer, owner: Owner) -> None:
    """Uses and failed attempts as the key's own counts have them; each answer in its class, of both."""
    rows = [
        *past(owner, *[MIDNIGHT] * 3),
        *past(owner, MIDNIGHT, status=404),
        *past(owner, MIDNIGHT, status=503),
        *past(owner, MIDNIGHT, status=302),
        *past(owner, MIDNIGHT, status=403, accepted=False),
        PastRow(MIDNIGHT, owner.key.id, None, status=401, accepted=False),
    ]
    put_rows(server.conninfo, rows)
    [told] = asked(owner, "hour", MIDNIGHT, MIDNIGHT + timedelta(hours=1))["data"]
    assert told["statuses"] == {"2xx": 3, "3xx": 1, "4xx": 3, "5xx": 1}
    assert (told["requests"], told["failed_attempts"]) == (6, 2)


def test_totals_are_the_keys_own_counts(server: HttpServer, owner: Owner) -> None:
    """Without bounds, 24 buckets until now; there when the answer is, exact, as the key's own counts."""
    key = server.back.key(owner.key.account_id, scopes=["campaigns:read"])
    for path, times in (("/api/campaigns", 4), ("/api/campaigns/x", 2), ("/api/keys", 3)):
        for _ in range(times):
            owner.client.get(path, key=key.secret)
    told = owner.client.get(f"{key.path}/usage").json
    assert len(told["data"]) == 24
    assert told["totals"] == {"requests": 6, "failed_attempts": 3}
    counts = owner.client.get(key.path).json
    assert (counts["request_count"], counts["failed_attempts"]) == (6, 3)


def test_the_writers_of_several_processes_add_up(server: HttpServer, owner: Owner) -> None:
    """Rows of several runs in one bucket are one number."""
    for _ in range(3):
        put_rows(server.conninfo, past(owner, MIDNIGHT, MIDNIGHT))
    assert asked(owner, "minute", MIDNIGHT, MIDNIGHT + timedelta(minutes=1))["totals"]["requests"] == 6


def test_an_invented_key_leaves_no_counts(server: HttpServer) -> None:
    """An id that no key has is counted nowhere: anybody can send as many as they like."""
    put_rows(server.conninfo, [PastRow(MIDNIGHT, "key_invented0", None, accepted=False, status=401)])
    assert server.rows("SELECT count(*) FROM usage.bucket_counts WHERE key_id = 'key_invented0'") == [(0,)]


def test_another_accounts_key_is_unknown(owner: Owner, stranger: Owner) -> None:
    """The same bytes as for a key that never was."""
    others, none = (owner.client.get(f"/api/keys/{key_id}/usage") for key_id in (stranger.key.id, "key_000000000"))
    assert others.status == 404
    assert others.told() == none.told()
    assert owner.client.get("/api/keys/nonsense/usage").told() == none.told()


def test_it_needs_the_scope_to_read_keys(server: HttpServer, owner: Owner) -> None:
    """`keys:read` suffices; another scope is a 403."""
    good, bad = (server.back.key(owner.key.account_id, scopes=[scope]) for scope in ("keys:read", "campaigns:read"))
    assert owner.client.get(f"{owner.key.path}/usage", key=good.secret).status == 200
    assert owner.client.get(f"{owner.key.path}/usage", key=bad.secret).status == 403


BAD = [
    ("from=2026-03-02T00:00:00Z&to=2026-03-02T00:00:00Z", "from"),
    ("from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z", "from"),
    ("from=2026-03-02T00:00:00&to=2026-03-03T00:00:00Z", "from"),
    ("from=2026-03-02T00:00:00Z&to=2026-03-03T00:00:00", "to"),
    ("from=yesterday", "from"),
    ("interval=week", "interval"),
    ("interval=minute&from=2026-03-01T00:00:00Z&to=2026-03-02T01:01:00Z", "interval"),
    ("from=0001-01-01T00:00:00%2B14:00", "from"),
    ("to=0001-01-01T00:00:00Z", "from"),
    ("from=9999-12-31T23:59:59-14:00", "from"),
]


@pytest.mark.parametrize(("query", "field"), BAD)
def test_what_cannot_be_meant_is_told_by_its_field(owner: Owner, query: str, field: str) -> None:
    """Times that are naive, out of order, out of range or no times; too many buckets; an unknown interval."""
    assert owner.client.get(f"{owner.key.path}/usage?{query}").fields == [field]


def test_as_many_buckets_as_are_allowed(owner: Owner) -> None:
    """1,500 minutes are answered."""
    told = asked(owner, "minute", MIDNIGHT, MIDNIGHT + timedelta(minutes=1_500))
    assert len(told["data"]) == 1_500


@pytest.mark.parametrize("interval", WIDTHS)
def test_the_last_day_of_all_times_has_its_buckets(owner: Owner, interval: str) -> None:
    """The end of its last one can be said by no time."""
    last = datetime(9999, 12, 31, tzinfo=UTC)
    told = asked(owner, interval, last, last + timedelta(hours=23, minutes=59, seconds=59))
    assert len(told["data"]) == timedelta(days=1) // WIDTHS[interval]
    assert told["totals"] == {"requests": 0, "failed_attempts": 0}
