"""`/api/keys`: what a key looks like, how it is made, found and changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.api_key import GraceStart
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import TIME, Heard
from tests.kit.http_server import HttpServer

FIELDS = [
    "id", "name", "environment", "prefix", "status", "scopes", "allowed_ips", "created_at", "expires_at",
    "last_used_at", "request_count", "failed_attempts", "rotation_due_at", "rotation_due_days", "revoked_at",
        "lineage_id", "replaces",
    "replaced_by", "retires_at",
]  # fmt: skip
STATUSES = ["active", "rotation_due", "rotating", "disabled", "revoked", "expired"]
DAY = timedelta(days=1)


def new(client_owner: Owner, **values: Any) -> Heard:
    """A key made over HTTP."""
    return client_owner.client.post("/api/keys", {"name": "Production API", "environment": "live", **values})


def instant(text: str) -> datetime:
    """An instant of an answer, which has to be written in UTC."""
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


def test_a_new_key_is_told_whole(owner: Owner) -> None:
    """201 with every field of the contract: plain values, nulls for what is not, a rotation due after 90 days."""
    before = datetime.now(UTC)
    heard = new(owner)
    body = heard.json
    assert heard.status == 201
    assert heard.header("cache-control") == "no-store"
    assert heard.header("content-type") == "application/json"
    assert set(body) == {*FIELDS, "key"}
    identity = body["id"].removeprefix("key_")
    assert body == {
        "id": f"key_{identity}",
        "name": "Production API",
        "environment": "live",
        "prefix": f"sk_live_{identity}",
        "key": body["key"],
        "status": "active",
        "scopes": None,
        "allowed_ips": None,
        "created_at": body["created_at"],
        "expires_at": None,
        "last_used_at": None,
        "request_count": 0,
        "failed_attempts": 0,
        "rotation_due_at": body["rotation_due_at"],
        "rotation_due_days": 90,
        "revoked_at": None,
        "lineage_id": body["id"],
        "replaces": None,
        "replaced_by": None,
        "retires_at": None,
    }
    assert before <= instant(body["created_at"]) <= datetime.now(UTC)
    assert instant(body["rotation_due_at"]) == instant(body["created_at"]) + 90 * DAY
    assert body["key"].startswith(f"{body['prefix']}_")
    assert len(body["key"]) <= 64


@pytest.mark.parametrize("environment", ["live", "staging", "dev"])
def test_a_new_key_works_and_says_its_environment(owner: Owner, environment: str) -> None:
    """The key shown is accepted at once, and begins with its environment."""
    body = new(owner, environment=environment).json
    assert body["environment"] == environment
    assert body["key"].startswith(f"sk_{environment}_")
    assert owner.client.get("/api/campaigns", key=body["key"]).status == 200


def test_a_new_key_is_what_was_asked_for(owner: Owner) -> None:
    """Scopes and networks are kept, once each and in canonical form; the expiry is told in UTC, whatever its offset."""
    heard = new(
        owner,
        name="  Ünïcode 🔑  ",
        scopes=["keys:read", "campaigns:*", "keys:read"],
        allowed_ips=["203.0.113.7", "2001:DB8:0::/32", "198.51.100.0/24", "::ffff:192.0.2.0/120"],
        expires_at="2031-01-01T00:30:00.25+02:00",
    )
    body = heard.json
    assert heard.status == 201
    assert body["name"] == "Ünïcode 🔑"
    assert body["scopes"] == ["campaigns:*", "keys:read"]
    assert body["allowed_ips"] == ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.7/32", "2001:db8::/32"]
    assert body["expires_at"] == "2030-12-31T22:30:00.250000Z"
    [created] = owner.client.get(f"/api/keys/{body['id']}/events").json["data"]
    assert created["data"]["expires_at"] == "2030-12-31T22:30:00.250000Z"


def test_a_name_may_be_a_hundred_characters_long(owner: Owner) -> None:
    """100 code points after trimming, each of which may take four bytes."""
    assert new(owner, name=" " + "🔑" * 100 + " ").json["name"] == "🔑" * 100


def test_a_key_whose_name_was_taken_with_a_credential_in_it_still_works(server: HttpServer, owner: Owner) -> None:
    """A ledger may be older than the rule: the key is read, changed, rotated and renamed like any other."""
    named = "of whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    key = server.back.key(owner.key.account_id, name=named)
    client = owner.client
    assert client.get(key.path).json["name"] == named
    assert client.patch(key.path, {"scopes": ["keys:read"]}).json["name"] == named
    successor = client.post(f"{key.path}/rotate").json["id"]
    assert [event["type"] for event in client.get(f"{key.path}/events").json["data"]].count("key.created") == 1
    assert client.patch(f"/api/keys/{successor}", {"name": "Renamed"}).json["name"] == "Renamed"


def test_the_secret_is_told_once(owner: Owner) -> None:
    """No later answer about the key holds its secret, or the whole key."""
    body = new(owner).json
    path = f"/api/keys/{body['id']}"
    secret = body["key"].rpartition("_")[2]
    later = [
        owner.client.get("/api/keys"),
        owner.client.get(path),
        owner.client.patch(path, {"name": "Renamed"}),
        owner.client.get(f"{path}/events"),
        owner.client.post(f"{path}/rotate"),
        owner.client.post(f"{path}/revoke"),
    ]
    assert [heard.status for heard in later] == [200, 200, 200, 200, 201, 200]
    assert [heard for heard in later if secret.encode() in heard.body] == []


def test_keys_are_listed_newest_first_as_each_is_told(owner: Owner) -> None:
    """The list holds exactly what the single answers hold, without `key`, the newest key first."""
    made = [new(owner, name=f"Key {number}").json["id"] for number in range(3)]
    listed = owner.client.get("/api/keys").json
    assert [key["id"] for key in listed["data"]] == [*reversed(made), owner.key.id]
    assert listed["next_cursor"] is None
    assert [list(key) for key in listed["data"]] == [FIELDS] * 4
    assert listed["data"][0] == owner.client.get(f"/api/keys/{made[-1]}").json


def test_use_shows_in_the_key(owner: Owner) -> None:
    """Accepted requests are counted, with the time of the last; refused ones that present the key's id, apart."""
    body = new(owner, scopes=["campaigns:read"]).json
    for _ in range(3):
        assert owner.client.get("/api/campaigns", key=body["key"]).status == 200
    mistyped = body["key"][:-1] + ("0" if body["key"][-1] != "0" else "1")
    assert owner.client.get("/api/campaigns", key=mistyped).status == 401
    assert owner.client.get("/api/keys", key=body["key"]).status == 403
    told = owner.client.get(f"/api/keys/{body['id']}").json
    assert (told["request_count"], told["failed_attempts"]) == (3, 2)
    assert instant(told["created_at"]) <= instant(told["last_used_at"]) <= datetime.now(UTC)


def test_every_status_is_shown_and_can_be_asked_for(server: HttpServer, owner: Owner) -> None:
    """A key is listed under the one status that it has now, also when the clock alone brought it there."""
    back, account, client = server.back, owner.key.account_id, owner.client
    back.key(account, name="due", ago=100 * DAY)
    back.key(account, name="past its expiry", expires_at=datetime.now(UTC) - DAY, ago=2 * DAY)
    rotated, retired = back.key(account, name="rotated"), back.key(account, name="past its grace", ago=3 * DAY)
    disabled, revoked = back.key(account, name="disabled"), back.key(account, name="revoked")
    back.manage.keys.rotate(
        account_id=account, key_id=retired.id, grace=DAY, grace_starts=GraceStart.NOW, by=back.origin(ago=2 * DAY)
    )
    assert client.post(f"{rotated.path}/rotate").status == 201
    assert client.post(f"{disabled.path}/disable").status == 200
    assert client.post(f"{revoked.path}/revoke").status == 200

    found = {status: client.get(f"/api/keys?status={status}").json["data"] for status in STATUSES}
    assert {status: [key["name"] for key in keys] for status, keys in found.items()} == {
        "active": ["rotated", "past its grace", "Owner"],  # the two successors, and the caller
        "rotation_due": ["due"],
        "rotating": ["rotated"],
        "disabled": ["disabled"],
        "revoked": ["revoked", "past its grace"],
        "expired": ["past its expiry"],
    }
    for status, keys in found.items():
        for key in keys:
            assert key["status"] == status
            if key["id"] != owner.key.id:  # whose count moves with each call
                assert client.get(f"/api/keys/{key['id']}").json == key
    assert found["revoked"][1]["revoked_at"] == found["revoked"][1]["retires_at"]


def test_the_list_can_be_held_to_an_environment(owner: Owner) -> None:
    """`environment` alone, and together with `status`, leaves what has both."""
    made = {environment: new(owner, environment=environment).json["id"] for environment in ("live", "staging", "dev")}
    owner.client.post(f"/api/keys/{made['dev']}/disable")

    def found(query: str) -> list[str]:
        return [key["id"] for key in owner.client.get(f"/api/keys?{query}").json["data"]]

    assert found("environment=staging") == [made["staging"]]
    assert found("environment=live") == [made["live"], owner.key.id]
    assert found("environment=dev&status=disabled") == [made["dev"]]
    assert found("environment=dev&status=active") == []


@pytest.mark.parametrize(
    "query", ["environment=production", "environment=LIVE", "environment=", "status=dead", "status=Active", "status="]
)
def test_a_filter_that_does_not_exist_is_named(owner: Owner, query: str) -> None:
    """An unknown value of a filter is a 422 that names the parameter, never an unfiltered list."""
    assert owner.client.get(f"/api/keys?{query}").fields == [query.partition("=")[0]]


CHANGES = [
    ({"name": " Renamed "}, {"name": "Renamed"}),
    ({"scopes": ["keys:read", "campaigns:read"]}, {"scopes": ["campaigns:read", "keys:read"]}),
    ({"scopes": None}, {"scopes": None}),
    ({"allowed_ips": ["192.0.2.1"]}, {"allowed_ips": ["192.0.2.1/32"]}),
    ({"allowed_ips": None}, {"allowed_ips": None}),
    ({"name": "All", "scopes": None, "allowed_ips": None}, {"name": "All", "scopes": None, "allowed_ips": None}),
    ({}, {}),
]


@pytest.mark.parametrize(("change", "differs"), CHANGES, ids=[repr(change) for change, _ in CHANGES])
def test_a_change_touches_what_it_names(owner: Owner, change: dict[str, Any], differs: dict[str, Any]) -> None:
    """PATCH: an absent field stays, null opens scopes and networks, a value replaces; the answer is the changed key."""
    key = new(owner, scopes=["campaigns:read"], allowed_ips=["10.0.0.0/8"]).json
    heard = owner.client.patch(f"/api/keys/{key['id']}", change)
    expected = {name: key[name] for name in FIELDS} | differs
    assert (heard.status, heard.json) == (200, expected)
    assert owner.client.get(f"/api/keys/{key['id']}").json == expected


def test_a_change_to_the_same_records_nothing(server: HttpServer, owner: Owner) -> None:
    """What is already so is answered as a change would be, and leaves no event."""
    key = new(owner, scopes=["keys:read", "campaigns:read"], allowed_ips=["10.0.0.0/8"]).json
    head = server.head()
    same = {"name": "Production API", "scopes": ["campaigns:read", "keys:read"], "allowed_ips": ["10.0.0.0/8"]}
    assert owner.client.patch(f"/api/keys/{key['id']}", same).status == 200
    assert server.head() == head


def test_a_change_of_scopes_holds_when_it_is_answered(owner: Owner) -> None:
    """The request after the PATCH is judged by the new scopes."""
    key = new(owner).json
    for scopes, status in ((["keys:read"], 403), (["campaigns:read"], 200), (["campaigns:write"], 403), (None, 200)):
        assert owner.client.patch(f"/api/keys/{key['id']}", {"scopes": scopes}).status == 200
        assert owner.client.get("/api/campaigns", key=key["key"]).status == status
