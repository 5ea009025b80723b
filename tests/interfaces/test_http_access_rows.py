"""The access log: one row for each request to a protected route, with what happened, and nothing of what was said."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from domain.access import Plan
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import Heard
from tests.kit.http_server import HttpServer, serving
from tests.kit.service import eventually

SECRET_WORDS = "correct-horse"


def rows_of(server: HttpServer, heard: Heard) -> list[tuple[Any, ...]]:
    """The rows of one request."""
    return server.rows(
        "SELECT method, endpoint, status, outcome, accepted, key_id, account_id, client_ip"
        " FROM usage.access_log WHERE request_id = %(id)s",
        {"id": heard.request_id},
    )


ANSWERS = [
    ("GET /api/keys", ..., 200),
    ("GET /api/keys/", ..., 200),  # logged as the route is spelt
    ("POST /api/campaigns", {"name": "x"}, 201),
    ("POST /api/campaigns", {"name": ""}, 422),
    ("POST /api/campaigns", ..., 400),
    ("GET /api/keys/key_000000000", ..., 404),
    ("GET /api/campaigns/cmp_0000000000000000", ..., 403),
    ("GET /api/keys?limit=0", ..., 422),
    ("GET /api/keys?cursor=x", ..., 400),
    ("POST /api/keys/{own}/rotate", {"grace_seconds": 60}, 201),
    ("POST /api/keys/{own}/enable", ..., 200),
]


@pytest.mark.parametrize(("call", "body", "status"), ANSWERS, ids=[f"{call} {status}" for call, _, status in ANSWERS])
def test_an_accepted_request_leaves_one_row(
    server: HttpServer, owner: Owner, call: str, body: Any, status: int
) -> None:
    """Method, path, the status that was answered, the key, its account and the client; there when the answer is."""
    method, _, path = call.format(own=owner.key.id).partition(" ")
    heard = owner.client.call(method, path, body, headers=[("X-Forwarded-For", "203.0.113.9")])
    endpoint = path.partition("?")[0].rstrip("/")
    assert heard.status == status
    assert rows_of(server, heard) == [
        (method, endpoint, status, "ok", True, owner.key.id, owner.key.account_id, "203.0.113.9")
    ]


def test_a_body_that_is_too_large_leaves_its_row(server: HttpServer, owner: Owner) -> None:
    """The framework's own refusals, behind the gate, are logged like any other."""
    heard = owner.client.call("POST", "/api/keys", body=b"x" * 70_000)
    assert [row[2:5] for row in rows_of(server, heard)] == [(413, "ok", True)]


def test_a_request_that_the_key_does_not_permit_leaves_its_row(server: HttpServer, owner: Owner) -> None:
    """403 by scope, network and plan: each with its reason, attributed to the key, not counted as a use."""
    back, account, client = server.back, owner.key.account_id, owner.client
    unscoped = back.key(account, scopes=["keys:read"])
    fenced = back.key(account, networks=["192.0.2.0/24"])
    for key, outcome in ((unscoped, "insufficient_scope"), (fenced, "forbidden_network")):
        heard = client.get("/api/campaigns", key=key.secret)
        assert heard.status == 403
        assert [row[2:7] for row in rows_of(server, heard)] == [(403, outcome, False, key.id, account)]


def test_a_row_says_what_came_of_its_own_request(server: HttpServer, owner: Owner) -> None:
    """Of two that ask the same with the same key, the second one's row has the second one's status and reason."""
    key, here = server.back.key(owner.key.account_id), [("X-Forwarded-For", "203.0.113.9")]
    made = [owner.client.post("/api/campaigns", {"name": name}, headers=here) for name in ("x", "")]
    assert [rows_of(server, each)[0][2:4] for each in made] == [(201, "ok"), (422, "ok")]
    refused: list[Heard] = []
    for change in ("disable", "revoke"):
        assert owner.client.post(f"{key.path}/{change}").status == 200
        refused.append(owner.client.get("/api/campaigns", key=key.secret, headers=here))
    assert [rows_of(server, each)[0][2:5] for each in refused] == [(401, "disabled", False), (401, "revoked", False)]


def test_a_presented_key_is_named_by_a_keyed_hash(server: HttpServer, owner: Owner) -> None:
    """The rows of one credential share its hash, which another credential does not have; nothing sent has none."""
    query = "SELECT DISTINCT key_hash FROM usage.access_log WHERE request_id = ANY(%(ids)s)"

    def hashes(*heard: Heard) -> list[Any]:
        return [row[0] for row in server.rows(query, {"ids": [each.request_id for each in heard]})]

    with server.client() as client:
        own = hashes(*(owner.client.get("/api/keys") for _ in range(3)))
        other = hashes(client.get("/api/keys", key="nonsense"))
        assert hashes(client.get("/api/keys")) == [None]
    assert len(own) == len(other) == 1
    assert own != other
    assert len(own[0]) == 32


def test_an_unproven_id_is_not_attributed_to_an_account(server: HttpServer, owner: Owner) -> None:
    """A forged key shows the id that it claims, and no account."""
    forged = owner.key.secret[:-1] + ("1" if owner.key.secret[-1] == "0" else "0")
    heard = owner.client.get("/api/campaigns", key=forged)
    assert [row[3:7] for row in rows_of(server, heard)] == [("forged", False, owner.key.id, None)]


UNPROTECTED = ["/health/live", "/health/ready", "/schema", "/schema/openapi.json", "/nowhere", "/", "/schema/nowhere"]


def test_other_routes_leave_no_row(server: HttpServer, owner: Owner) -> None:
    """Health, the description, unknown paths and methods that no route takes: with a key and without, no row."""
    for path in UNPROTECTED:
        assert rows_of(server, owner.client.get(path)) == []
    for method, path in (("DELETE", "/api/keys"), ("PUT", owner.key.path), ("BREW", "/api/campaigns")):
        assert rows_of(server, owner.client.call(method, path)) == []


def test_nothing_that_was_said_is_kept(server: HttpServer, owner: Owner) -> None:
    """No query, body or credential stands in the row of its request, nor in the server's log."""
    heard = [
        owner.client.get(f"/api/keys?limit=1&note={SECRET_WORDS}"),
        owner.client.post("/api/campaigns", {"name": "x", "note": SECRET_WORDS}),
        owner.client.get("/api/keys", headers=[("Authorization", f"Basic {SECRET_WORDS}")]),
        owner.client.get("/api/keys", headers=[("Cookie", SECRET_WORDS), ("User-Agent", SECRET_WORDS)]),
        owner.client.call("POST", f"/api/keys/{'x' * 9}?{SECRET_WORDS}", body=SECRET_WORDS.encode()),
    ]
    ids = {"ids": [each.request_id for each in heard]}
    kept = server.rows("SELECT access_log::text FROM usage.access_log WHERE request_id = ANY(%(ids)s)", ids)
    assert len(kept) == 4  # no route takes the last
    log = server.log.read_text(encoding="utf-8")
    for words in (SECRET_WORDS, owner.key.secret, owner.key.secret[-43:]):
        assert words not in str(kept)
        assert words not in log


WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqr+TwjUPD8ILPZ/Io2LaLaSw2xVhQK0c0="
SESSION = "ses_7Hq2mB9xT_0123456789ABCDEFGHIJKLMNOPQRSTUVabcdefghijk"
CUT_PATHS = {  # the server takes the test for a proxy, which asks for what stands behind its own path
    f"/auth/forward/cb/{WEBHOOK_SECRET}": "/cb/whsec_…",
    f"/auth/forward/cb/{quote(WEBHOOK_SECRET, safe='')}": "/cb/whsec_…",
    f"/auth/forward/cb/{quote(quote(WEBHOOK_SECRET, safe=''))}": "/cb/whsec_…",
    f"/auth/forward/{SESSION}/x": "/ses_7Hq2mB9xT…/x",
    f"/api/webhooks/{SESSION}": "/api/webhooks/ses_7Hq2mB9xT…",
    f"/api/webhooks/{quote(quote(WEBHOOK_SECRET, safe=''))}": "/api/webhooks/whsec_…",
}


@pytest.mark.parametrize("path", CUT_PATHS)
def test_a_secret_in_a_path_is_cut(server: HttpServer, owner: Owner, path: str) -> None:
    """A session's token or a webhook's secret, `+/=` encoded or not, each time it is asked: in the row and the log."""
    heard = [owner.client.get(path) for _ in range(2)]
    assert [[row[1] for row in rows_of(server, each)] for each in heard] == [[CUT_PATHS[path]]] * 2
    eventually(lambda: heard[1].request_id in server.log.read_text(encoding="utf-8"), "the request's line")
    log = server.log.read_text(encoding="utf-8")
    for part in (WEBHOOK_SECRET[6:18], "TwjUPD8ILPZ", "Io2LaLaSw2xVhQK0c0", SESSION[14:]):
        assert part not in log


def test_what_postgres_cannot_store_spoils_no_row(server: HttpServer, owner: Owner) -> None:
    """NUL, invalid UTF-8 and endless paths are kept as far as text goes, and spoil no row beside them."""
    strange = [
        "/api/keys/%00",
        "/api/keys/%ff%fe",
        f"/api/keys/{'a' * 9_000}",
        "/api/keys/%F0%9F%94%91",
        "/api/keys/%5C%22%7B,%7D",
    ]
    for path in strange:
        [row] = rows_of(server, owner.client.get(path))
        assert row[2:5] == (404, "ok", True)
        assert row[1].startswith("/api/keys/")
        assert len(row[1]) <= 512
        assert rows_of(server, owner.client.get("/api/keys"))


def test_counts_are_sums_of_rows(server: HttpServer, owner: Owner) -> None:
    """What a key says of its use is what its rows say."""
    key = server.back.key(owner.key.account_id, scopes=["campaigns:read"])
    for path, times in (("/api/campaigns", 4), ("/api/campaigns/x", 2), ("/api/keys", 3)):
        for _ in range(times):
            owner.client.get(path, key=key.secret)
    told = owner.client.get(key.path).json
    query = """
        SELECT count(*) FILTER (WHERE accepted), count(*) FILTER (WHERE NOT accepted),
               max(occurred_at) FILTER (WHERE accepted)
        FROM usage.access_log WHERE key_id = %(key)s
    """
    [(uses, failures, last)] = server.rows(query, {"key": key.id})
    assert (told["request_count"], told["failed_attempts"]) == (uses, failures) == (6, 3)
    assert datetime.fromisoformat(told["last_used_at"]) == last.astimezone(UTC)


@pytest.mark.parametrize(
    ("kept", "written"),
    [
        ("full", ["203.0.113.9", "2001:db8:1:2::3", "203.0.113.9"]),
        ("truncated", ["203.0.113.0", "2001:db8:1::", "203.0.113.0"]),
        ("none", [None, None, None]),
    ],
)
@pytest.mark.parametrize("durability", ["commit", "buffered"])
def test_a_client_address_is_kept_as_far_as_the_owner_wants(
    conninfo: str, tmp_path: Path, durability: str, kept: str, written: list[str | None]
) -> None:
    """In access rows and log lines, whatever the door and the answer; what a key allows is judged by all of it."""
    hops = ["203.0.113.9", "2001:db8:1:2::3", "::ffff:203.0.113.9"]
    with serving(conninfo, tmp_path / "log", access_log_durability=durability, log_client_ip=kept) as own:
        account = own.back.account()
        key = own.back.key(account, networks=["203.0.113.9/32", "2001:db8:1:2::3/128"])
        heard: list[list[Heard]] = []
        for path, secret in (("/api/campaigns", key.secret), ("/auth/forward", key.secret), ("/auth/forward", "x")):
            with own.client(secret) as client:
                heard += [[client.get(path, headers=[("X-Forwarded-For", hop)]) for hop in hops] for _ in range(2)]
        with own.client(key.secret) as client:
            assert client.get("/auth/forward").status == 403
        eventually(lambda: own.rows("SELECT count(*) FROM usage.access_log") == [(19,)], "all rows are written")
        assert [[each.status for each in turn] for turn in heard] == [[200] * 3] * 4 + [[401] * 3] * 2
        for turn in heard:
            assert [rows_of(own, each)[0][7] for each in turn] == written
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    told = {line["request_id"]: line["client_ip"] for line in lines if line["event"] == "http_request"}
    for turn in heard:
        assert [told[each.request_id] for each in turn] == written


def test_a_buffered_row_follows_its_answer(conninfo: str, tmp_path: Path) -> None:
    """`buffered`: each request leaves the same one row, soon after its answer."""
    with serving(conninfo, tmp_path / "log", access_log_durability="buffered") as own:
        key = own.back.key(own.back.account(Plan.FREE))
        with own.client(key.secret) as client:
            heard = [client.get("/api/campaigns") for _ in range(20)] + [client.get("/api/campaigns", key="x")]
        eventually(lambda: own.rows("SELECT count(*) FROM usage.access_log") == [(21,)], "all rows are written")
        found = [rows_of(own, each) for each in heard]
        assert [len(rows) for rows in found] == [1] * 21
        assert {rows[0][2:6] for rows in found} == {(200, "ok", True, key.id), (401, "malformed", False, None)}


def test_a_stop_writes_what_is_buffered(conninfo: str, tmp_path: Path) -> None:
    """A server that is asked to end leaves no buffered row behind."""
    with (
        serving(conninfo, tmp_path / "log", access_log_durability="buffered") as own,
        own.client(own.back.key(own.back.account()).secret) as client,
    ):
        assert [client.get("/api/campaigns").status for _ in range(50)] == [200] * 50
    assert own.rows("SELECT count(*) FROM usage.access_log") == [(50,)]


def test_a_writer_that_is_behind_slows_its_callers_and_loses_no_row(conninfo: str, tmp_path: Path) -> None:
    """`buffered` ends at 2,000 waiting rows: answers then wait, and are refused when no batch gets through.

    When the writer writes again so is answered again, and each request has its one row, the refused one, too.
    """
    with (
        serving(conninfo, tmp_path / "log", access_log_durability="buffered") as own,
        own.client(own.back.key(own.back.account()).secret) as client,
        psycopg.connect(conninfo) as other,
    ):
        statuses = [client.get("/auth/forward").status]
        other.execute("LOCK TABLE usage.access_log IN ACCESS EXCLUSIVE MODE")
        while statuses[-1] == HTTPStatus.OK:
            assert len(statuses) < 8_000
            statuses.append(client.get("/auth/forward").status)
        assert statuses[-1] == HTTPStatus.SERVICE_UNAVAILABLE
        assert len(statuses) > 2_000
        other.rollback()

        def is_answered() -> bool:
            statuses.append(client.get("/auth/forward").status)
            return statuses[-1] == HTTPStatus.OK

        eventually(is_answered, "answered again")
        count = "SELECT count(*) FROM usage.access_log"
        eventually(lambda: own.rows(count) == [(len(statuses),)], "a row for each request")
