"""``/api/webhooks``: the contract's routes; deliveries themselves are tested where they are made."""

from __future__ import annotations

import re
from typing import Any

import pytest

from domain.access import Plan
from tests.interfaces.conftest import Owner
from tests.kit.http_server import HttpServer

URL = "https://hooks.acme.example/keyledger"
ASKED = {"url": URL, "events": ["key.*"], "description": "rota"}
UNKNOWN = b'{"error":{"code":"NOT_FOUND","message":"No such webhook"}}'


def created(owner: Owner, **values: Any) -> dict[str, Any]:
    heard = owner.client.post("/api/webhooks", ASKED | values)
    assert heard.status == 201
    return heard.json


def test_a_webhook_has_a_secret_that_is_shown_once(owner: Owner) -> None:
    """`whsec_` and the base64 of 32 bytes, in the creating answer alone, which is not to be stored."""
    heard = owner.client.post("/api/webhooks", ASKED)
    assert (heard.status, heard.header("cache-control")) == (201, "no-store")
    body = heard.json
    assert re.fullmatch(r"whsec_[0-9A-Za-z+/]{43}=", body.pop("secret"))
    assert re.fullmatch(r"whe_[0-9A-Za-z]{16}", body["id"])
    assert body == {
        "id": body["id"],
        "url": URL,
        "events": ["key.*"],
        "description": "rota",
        "status": "enabled",
        "disabled_reason": None,
        "disabled_at": None,
        "previous_secret_until": None,
        "created_at": body["created_at"],
    }
    assert owner.client.get(f"/api/webhooks/{body['id']}").json == body
    assert owner.client.get("/api/webhooks").json == {"data": [body], "next_cursor": None}


def test_what_is_given_changes_and_the_rest_stays(owner: Owner) -> None:
    """Url, events, description and status, each alone; the same again records nothing."""
    path = f"/api/webhooks/{created(owner)['id']}"
    before = owner.client.get(path).json
    changes = ({"url": f"{URL}/2"}, {"events": ["*"]}, {"description": None}, {"description": "x"}, {})
    for change in changes:
        before |= change
        assert owner.client.patch(path, change).json == before
    stopped = owner.client.patch(path, {"status": "disabled"}).json
    assert (stopped["status"], stopped["disabled_reason"]) == ("disabled", "owner")
    assert owner.client.post(f"{path}/test").status == 409
    assert owner.client.patch(path, {"status": "enabled"}).json == before


BAD = [
    ({"url": "http://hooks.acme.example/"}, "url"),
    ({"url": "https://127.0.0.1/"}, "url"),
    ({"url": "https://[::ffff:169.254.169.254]/"}, "url"),
    ({"url": "https://user:password@hooks.acme.example/"}, "url"),
    ({"url": "https://0x7f.1/"}, "url"),
    ({"url": 1}, "url"),
    ({"events": []}, "events"),
    ({"events": ["key.nothing"]}, "events"),
    ({"events": ["invite.*", "key"]}, "events"),
    ({"events": "key.*"}, "events"),
    ({"description": "x" * 501}, "description"),
    ({"secret": "whsec_mine"}, "secret"),
]


@pytest.mark.parametrize(("fault", "field"), BAD, ids=repr)
def test_a_field_that_is_out_of_range_is_named(server: HttpServer, owner: Owner, fault: Any, field: str) -> None:
    """For a new webhook and for a change: 422, and nothing happens."""
    path = f"/api/webhooks/{created(owner)['id']}"
    head = server.head()
    for heard in (owner.client.post("/api/webhooks", ASKED | fault), owner.client.patch(path, fault)):
        assert heard.status == 422
        assert [problem["field"].partition(".")[0] for problem in heard.json["error"]["details"]] in ([field], [""])
    assert server.head() == head


def test_a_rotated_secret_is_another_and_the_old_one_has_its_time(owner: Owner) -> None:
    """201, the new secret alone, and until when the old one signs; grace out of bounds is 422."""
    webhook = created(owner)
    path = f"/api/webhooks/{webhook['id']}/rotate-secret"
    heard = owner.client.post(path, {"grace_seconds": 60})
    assert (heard.status, heard.header("cache-control")) == (201, "no-store")
    assert heard.json["secret"] not in {webhook["secret"], None}
    assert heard.json["previous_secret_until"] is not None
    assert owner.client.post(path).status == 201
    for grace in (-1, 30 * 86400 + 1, "1"):
        assert owner.client.post(path, {"grace_seconds": grace}).status == 422


def test_a_deleted_webhook_is_gone(owner: Owner) -> None:
    """204, and from then on the same 404 as one that never was."""
    path = f"/api/webhooks/{created(owner)['id']}"
    assert owner.client.call("DELETE", path).status == 204
    for method, more, body in (("GET", "", ...), ("DELETE", "", ...), ("PATCH", "", {}), ("POST", "/test", ...)):
        heard = owner.client.call(method, path + more, body)
        assert (heard.status, heard.body) == (404, UNKNOWN)
    assert owner.client.get("/api/webhooks").json["data"] == []


ROUTES = [
    ("GET", "", ...), ("PATCH", "", {"description": "mine"}), ("DELETE", "", ...), ("POST", "/rotate-secret", ...),
    ("GET", "/deliveries", ...), ("POST", "/test", ...), ("POST", "/deliveries/msg_0000000000000000000000/retry", ...),
]  # fmt: skip


def test_another_accounts_webhook_is_like_one_that_never_was(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """Every route: a stranger's id, an unknown and a malformed one get the same 404, and nothing happens."""
    theirs = created(stranger)["id"]
    head = server.head()
    for method, more, body in ROUTES:
        for webhook_id in (theirs, "whe_zzzzzzzzzzzzzzzz", "whe_", "x", "%00"):
            heard = owner.client.call(method, f"/api/webhooks/{webhook_id}{more}", body)
            assert (heard.status, heard.body) == (404, UNKNOWN), (method, more, webhook_id)
    assert server.head() == head


def test_webhooks_are_a_feature_from_team_on(server: HttpServer) -> None:
    """On the free plan each route is 403."""
    key = server.back.key(server.back.account(Plan.FREE))
    with server.client(key.secret) as client:
        assert client.post("/api/webhooks", ASKED).status == 403
        assert client.get("/api/webhooks").status == 403
    key = server.back.key(server.back.account(Plan.TEAM))
    with server.client(key.secret) as client:
        assert client.post("/api/webhooks", ASKED).status == 201


def test_lists_have_pages(owner: Owner) -> None:
    """Newest first, and each webhook once."""
    made = [created(owner)["id"] for _ in range(3)]
    first = owner.client.get("/api/webhooks?limit=2").json
    second = owner.client.get(f"/api/webhooks?limit=2&cursor={first['next_cursor']}").json
    assert [each["id"] for each in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None
    assert owner.client.get(f"/api/keys?cursor={first['next_cursor']}").status == 400


def test_an_account_has_so_many_and_no_more(owner: Owner) -> None:
    """The fifty-first is 409."""
    for _ in range(50):
        created(owner)
    assert owner.client.post("/api/webhooks", ASKED).status == 409
