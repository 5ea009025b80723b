"""`/api/access-logs`: an account's rows and no other's, by filter, newest first, each once."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from interfaces.http.usage import csv_safe
from tests.interfaces.conftest import Owner
from tests.kit.access_rows import PastRow, put_rows
from tests.kit.http_server import HttpServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIELDS = ["timestamp", "method", "endpoint", "status", "key_id", "key_hash", "client_ip", "request_id"]
PAST = "to=2026-06-01T00:00:00Z"


def past(owner: Owner, count: int, **values: Any) -> list[PastRow]:
    """So many rows of the owner's key, a second apart, the newest last."""
    return [PastRow(NOON + timedelta(seconds=n), owner.key.id, owner.key.account_id, **values) for n in range(count)]


def ids(owner: Owner, query: str) -> list[str]:
    """The request ids of all pages."""
    pages = owner.client.pages(f"/api/access-logs?{query}", limit=100)
    return [row["request_id"] for page in pages for row in page]


def test_a_row_tells_what_the_contract_says(owner: Owner) -> None:
    """The row of the request before, with exactly the contract's fields; nothing of its query."""
    heard = owner.client.get("/api/keys?status=active", headers=[("X-Forwarded-For", "203.0.113.9")])
    row = owner.client.get("/api/access-logs?limit=1").json["data"][0]
    assert list(row) == FIELDS
    assert (row["method"], row["endpoint"], row["status"]) == ("GET", "/api/keys", 200)
    assert (row["key_id"], row["client_ip"], row["request_id"]) == (owner.key.id, "203.0.113.9", heard.request_id)
    assert len(row["key_hash"]) == 32


def test_rows_are_an_accounts_own(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """No row of another account, whatever the filter; its key is unknown."""
    own = put_rows(server.conninfo, past(owner, 2))
    put_rows(server.conninfo, past(stranger, 3))
    assert ids(owner, PAST) == own[::-1]
    others, none = (
        owner.client.get(f"/api/access-logs?key_id={key_id}") for key_id in (stranger.key.id, "key_000000000")
    )
    assert others.status == 404
    assert others.told() == none.told()


def test_attempts_that_only_name_a_key_are_its_owners(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """A forged key's row is in the listing of the account whose key it names, in its place in time, and in no other."""
    rows = past(owner, 3)
    rows[1] = PastRow(rows[1].at, owner.key.id, None, status=401, accepted=False)
    put = put_rows(server.conninfo, [*rows, PastRow(NOON, None, None, status=401, accepted=False)])
    assert ids(owner, PAST) == put[2::-1]
    assert ids(owner, f"{PAST}&key_id={owner.key.id}") == put[2::-1]
    assert ids(stranger, PAST) == []
    forged = owner.key.secret[:-1] + ("1" if owner.key.secret[-1] == "0" else "0")
    heard = owner.client.get("/api/campaigns", key=forged)
    assert heard.status == 401
    assert heard.request_id in ids(owner, "status=401")


def test_filters_take_what_they_say(server: HttpServer, owner: Owner) -> None:
    """Key, status, class, endpoint, prefix, time from and to, alone and together."""
    other = server.back.key(owner.key.account_id, name="Other")
    rows = past(owner, 6)
    rows[1] = PastRow(rows[1].at, owner.key.id, owner.key.account_id, status=404, endpoint="/api/keys/x")
    rows[2] = PastRow(rows[2].at, owner.key.id, owner.key.account_id, status=422, endpoint="/api/keys")
    rows[3] = PastRow(rows[3].at, other.id, owner.key.account_id, endpoint="/api/%_")
    put = put_rows(server.conninfo, rows)
    for query, places in {
        f"key_id={other.id}": [3],
        "status=404": [1],
        "status=4xx": [2, 1],
        "status=5xx": [],
        "path=/api/keys": [2],
        "path=/api/keys*": [2, 1],
        "path=/api/%25_": [3],
        "path=/api/%25*": [3],
        "path=*": [5, 4, 3, 2, 1, 0],
        "path=/api/keys*&status=422": [2],
        "from=2026-03-01T12:00:04Z": [5, 4],
        "from=2026-03-01T12:00:01Z&status=200": [5, 4, 3],
    }.items():
        assert ids(owner, f"{PAST}&{query}") == [put[place] for place in places], query
    assert ids(owner, "to=2026-03-01T12:00:02Z") == [put[1], put[0]]
    assert ids(owner, "from=2026-03-01T14:00:01%2B02:00&to=2026-03-01T12:00:02Z") == [put[1]]


@pytest.mark.parametrize("same_instant", [False, True])
def test_pages_lose_and_double_nothing_while_rows_arrive(
    server: HttpServer, owner: Owner, *, same_instant: bool
) -> None:
    """Every row that was there at the first page is on one page, though rows come between, before and behind."""
    rows = past(owner, 23)
    if same_instant:
        rows = [PastRow(NOON, row.key_id, row.account_id) for row in rows]
    put = put_rows(server.conninfo, rows)
    found: list[str] = []
    cursor = ""
    for _ in range(30):
        page = owner.client.get(f"/api/access-logs?limit=5&{PAST}{cursor}").json
        found += [row["request_id"] for row in page["data"]]
        put_rows(server.conninfo, [*past(owner, 1), PastRow(NOON + timedelta(days=1), owner.key.id, None)])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        if len(found) >= 40:
            break
    assert len(set(found)) == len(found)
    assert set(put) <= set(found)


def test_a_rare_row_is_found_in_bounded_steps(server: HttpServer, owner: Owner) -> None:
    """A page looks at so many rows and says that there is more; following its cursors finds the one row, once."""
    rows = past(owner, 5_200)
    rows[3] = PastRow(rows[3].at, owner.key.id, owner.key.account_id, status=500)
    put = put_rows(server.conninfo, rows)
    pages = owner.client.pages(f"/api/access-logs?{PAST}&status=5xx", limit=10)
    assert [row["request_id"] for page in pages for row in page] == [put[3]]
    assert len(pages) == 2
    pages = owner.client.pages(f"/api/access-logs?{PAST}&status=5xx&key_id={owner.key.id}", limit=10)
    assert [len(page) for page in pages] == [0, 1]
    exported = owner.client.get(f"/api/access-logs?{PAST}&format=jsonl")
    assert [json.loads(line)["request_id"] for line in exported.body.splitlines()] == put[::-1]
    assert exported.header("x-row-count") == "5200"
    assert exported.header("x-next-cursor") is None


def test_a_cursor_fits_its_own_filter_alone(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """With another filter, another account, or of another listing, or made up, it is a 400."""
    put_rows(server.conninfo, past(owner, 3))
    cursor = owner.client.get(f"/api/access-logs?limit=1&{PAST}").json["next_cursor"]
    keys = owner.client.post("/api/keys", {"name": "x", "environment": "live"})
    assert keys.status == 201
    listing = owner.client.get("/api/keys?limit=1").json["next_cursor"]
    for client, query in (
        (owner.client, f"{PAST}&status=200&cursor={cursor}"),
        (stranger.client, f"{PAST}&cursor={cursor}"),
        (owner.client, f"cursor={listing}"),
        (owner.client, "cursor=x"),
    ):
        assert client.get(f"/api/access-logs?{query}").status == 400
    assert owner.client.get(f"/api/access-logs?limit=1&{PAST}&cursor={cursor}").status == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=abc", "status"),
        ("status=40", "status"),
        ("status=6xx", "status"),
        ("status=%C2%B2%C2%B2%C2%B2", "status"),
        ("path=%00", "path"),
        (f"path={'x' * 513}", "path"),
        ("from=2026-03-02T00:00:00", "from"),
        ("to=tomorrow", "to"),
        ("from=2026-03-02T00:00:00Z&to=2026-03-02T00:00:00Z", "from"),
        ("format=xml", "format"),
        ("limit=101", "limit"),
    ],
)
def test_what_cannot_be_meant_is_told_by_its_field(owner: Owner, query: str, field: str) -> None:
    """422 that names the parameter, for a page and for an export."""
    assert owner.client.get(f"/api/access-logs?{query}").fields == [field]
    if not query.startswith("format"):
        assert owner.client.get(f"/api/access-logs?format=csv&{query}").fields == [field]


def test_it_needs_the_scope_to_read_keys(server: HttpServer, owner: Owner) -> None:
    """`keys:read` suffices; another scope is a 403."""
    good, bad = (server.back.key(owner.key.account_id, scopes=[scope]) for scope in ("keys:read", "campaigns:read"))
    assert owner.client.get("/api/access-logs", key=good.secret).status == 200
    assert owner.client.get("/api/access-logs", key=bad.secret).status == 403


def test_an_export_holds_the_filter(server: HttpServer, owner: Owner) -> None:
    """CSV by parameter and by `Accept`, JSON Lines likewise: the rows of the pages, in their order."""
    put = put_rows(server.conninfo, [*past(owner, 130), PastRow(NOON, owner.key.id, owner.key.account_id, status=500)])
    query = f"/api/access-logs?{PAST}&status=200"
    by_parameter = owner.client.get(f"{query}&format=csv")
    by_accept = owner.client.get(query, headers=[("Accept", "text/csv")])
    assert by_parameter.body == by_accept.body
    assert by_parameter.header("content-type") == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(by_parameter.body.decode(), newline="")))
    assert list(table[0]) == FIELDS
    assert [row["request_id"] for row in table] == put[129::-1]
    lines = owner.client.get(query, headers=[("Accept", "application/jsonl")])
    pages = owner.client.pages(query, limit=100)
    assert [json.loads(line) for line in lines.body.splitlines()] == [row for page in pages for row in page]


ACCEPTED = {
    "": "application/json",
    "*/*": "application/json",
    "text/html, */*;q=0.8": "application/json",
    "application/json, text/csv": "application/json",
    "text/csv;q=0.1, application/json": "application/json",
    "text/html": "application/json",
    "text/csv;q=0": "application/json",
    "text/csv;q=none": "application/json",
    "application/json;q=0.1, text/csv": "text/csv; charset=utf-8",
    "text/csv, */*;q=0.1": "text/csv; charset=utf-8",
    "TEXT/CSV ; Q=0.5": "text/csv; charset=utf-8",
    "text/*": "text/csv; charset=utf-8",
    "*/*, application/json;q=0": "text/csv; charset=utf-8",
    "text/csv;q=0, application/jsonl": "application/jsonl",
    "text/csv;q=0.2, application/x-ndjson;q=0.7": "application/jsonl",
}


@pytest.mark.parametrize(("accept", "form"), ACCEPTED.items())
def test_what_is_accepted_most_is_given(owner: Owner, accept: str, form: str) -> None:
    """By the weights of `Accept`; JSON among equals, and where nothing that there is is accepted."""
    heard = owner.client.get("/api/access-logs?limit=1", headers=[("Accept", accept)])
    assert (heard.status, heard.header("content-type")) == (200, form)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_cell_is_no_formula(server: HttpServer, owner: Owner, start: str) -> None:
    """What a spreadsheet would run as a formula begins with an apostrophe; quotes and breaks stay in their cell."""
    endpoint = f'{start}cmd|"/c calc",\n1'
    put_rows(server.conninfo, past(owner, 1, endpoint=endpoint))
    heard = owner.client.get(f"/api/access-logs?{PAST}&format=csv&path={quote(endpoint)}")
    [row] = csv.DictReader(io.StringIO(heard.body.decode(), newline=""))
    assert row["endpoint"] == f"'{endpoint}"


def test_every_cell_is_quoted(server: HttpServer, owner: Owner) -> None:
    """Also those of the first line, and those without a value."""
    put_rows(server.conninfo, past(owner, 1, endpoint='/x;"y"'))
    heard = owner.client.get(f"/api/access-logs?{PAST}&format=csv").body.decode()
    told = owner.client.get(f"/api/access-logs?{PAST}").json["data"]
    quoted = ",".join('"{}"'.format(str(cell).replace('"', '""')) for cell in told[0].values())
    assert heard == ",".join(f'"{name}"' for name in FIELDS) + f"\r\n{quoted}\r\n"


@pytest.mark.parametrize("separator", [";", ",", "|", "\t", "\r", "\n"])
@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
@pytest.mark.parametrize("between", ["", " ", '"'])
def test_a_part_of_a_cell_is_no_formula(separator: str, sign: str, between: str) -> None:
    """A spreadsheet that splits at another separator finds an apostrophe at each part, too."""
    formula = f"{between}{sign}HYPERLINK(1)"
    assert csv_safe(f"/x{separator}{formula}") == f"/x{separator}'{formula}"
    assert csv_safe(f"{formula}{separator}{formula}") == f"'{formula}{separator}'{formula}"


def test_what_is_no_formula_is_left_as_it_is() -> None:
    """Signs within words, and separators with other text behind them."""
    for text in ("/a-b=c+d@e", "/x;y=1,z", "2026-03-01T12:00:00Z", "2001:db8::1"):
        assert csv_safe(text) == text
    assert [csv_safe(value) for value in (None, 404)] == ["", "404"]
