"""A key's life over HTTP: rotated, disabled, revoked, and told as events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.api_key import GraceStart
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import TIME
from tests.kit.http_server import HttpServer, Key

DAY = timedelta(days=1)


@pytest.fixture
def key(server: HttpServer, owner: Owner) -> Key:
    """A second key of the owner's account, to do things to."""
    return server.back.key(
        owner.key.account_id,
        name="Worker",
        scopes=["campaigns:read"],
        networks=["10.0.0.0/8"],
        expires_at=datetime(2031, 1, 1, tzinfo=UTC),
    )


def status_of(owner: Owner, key: Key) -> str:
    """The key's status as its owner sees it."""
    return owner.client.get(key.path).json["status"]


def use(owner: Owner, secret: str) -> int:
    """The status of a use of that key."""
    return owner.client.get("/api/campaigns", key=secret).status


def span(later: str, earlier: str) -> timedelta:
    """From one instant of an answer to another."""
    return datetime.fromisoformat(later) - datetime.fromisoformat(earlier)


def test_a_successor_is_like_its_predecessor(owner: Owner, key: Key) -> None:
    """201 with a new key of the same name, environment, scopes, networks, life and lineage, and both sides named."""
    heard = owner.client.post(f"{key.path}/rotate")
    successor, predecessor = heard.json, owner.client.get(key.path).json
    assert heard.status == 201
    assert heard.header("cache-control") == "no-store"
    for same in ("name", "environment", "scopes", "allowed_ips", "lineage_id"):
        assert successor[same] == predecessor[same]
    assert (successor["status"], predecessor["status"]) == ("active", "rotating")
    assert (successor["replaces"], predecessor["replaced_by"]) == (key.id, successor["id"])
    assert (successor["replaced_by"], predecessor["replaces"]) == (None, None)
    assert (successor["request_count"], successor["revoked_at"], successor["retires_at"]) == (0, None, None)
    assert successor["lineage_id"] == key.id
    assert span(successor["rotation_due_at"], successor["created_at"]) == 90 * DAY
    lives = [span(each["expires_at"], each["created_at"]) for each in (successor, predecessor)]
    assert lives[0] == lives[1]
    assert span(successor["expires_at"], predecessor["expires_at"]) > timedelta()


@pytest.mark.parametrize(
    ("asked", "grace"),
    [(..., DAY), ({}, DAY), ({"grace_seconds": 90}, timedelta(seconds=90)), ({"grace_starts": "now"}, DAY)],
    ids=str,
)
def test_both_keys_are_accepted_through_the_grace_period(owner: Owner, key: Key, asked: Any, grace: timedelta) -> None:
    """The predecessor retires the grace period after the rotation, a day when nothing is said; until then both work."""
    successor = owner.client.post(f"{key.path}/rotate", asked).json
    assert span(owner.client.get(key.path).json["retires_at"], successor["created_at"]) == grace
    assert [use(owner, secret) for secret in (key.secret, successor["key"])] == [200, 200]


def test_without_grace_the_predecessor_ends_at_once(owner: Owner, key: Key) -> None:
    """`grace_seconds: 0`: refused from the answer on, revoked with the reason `rotated`."""
    successor = owner.client.post(f"{key.path}/rotate", {"grace_seconds": 0}).json
    told = owner.client.get(key.path).json
    assert (told["status"], told["revoked_at"]) == ("revoked", successor["created_at"])
    assert [use(owner, secret) for secret in (key.secret, successor["key"])] == [401, 200]
    last = owner.client.get(f"{key.path}/events").json["data"][-1]
    assert (last["type"], last["data"]["reason"]) == ("key.revoked", "rotated")


def test_the_grace_period_can_wait_for_the_first_use(owner: Owner, key: Key) -> None:
    """`grace_starts: first_use`: no end is set while the successor is unused."""
    asked = {"grace_seconds": 60, "grace_starts": "first_use"}
    assert owner.client.post(f"{key.path}/rotate", asked).status == 201
    told = owner.client.get(key.path).json
    assert (told["status"], told["retires_at"]) == ("rotating", None)


def test_a_successor_that_got_lost_is_replaced(owner: Owner, key: Key) -> None:
    """Rotating again before the successor's first use ends that one and makes another; the nearer end stays."""
    first = owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600}).json
    ends = owner.client.get(key.path).json["retires_at"]
    second = owner.client.post(f"{key.path}/rotate", {"grace_seconds": 7200}).json
    assert (second["replaces"], second["lineage_id"]) == (key.id, key.id)
    assert owner.client.get(f"/api/keys/{first['id']}").json["status"] == "revoked"
    told = owner.client.get(key.path).json
    assert (told["replaced_by"], told["retires_at"], told["status"]) == (second["id"], ends, "rotating")
    assert [use(owner, secret) for secret in (key.secret, first["key"], second["key"])] == [200, 401, 200]


def test_a_successor_that_was_revoked_is_replaced(owner: Owner, key: Key) -> None:
    """It stays as it was, and another takes its place."""
    first = owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600}).json
    assert owner.client.post(f"/api/keys/{first['id']}/revoke", {"reason": "compromised"}).status == 200
    before = owner.client.get(f"/api/keys/{first['id']}").json
    second = owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600}).json
    assert owner.client.get(f"/api/keys/{first['id']}").json == before
    assert owner.client.get(key.path).json["replaced_by"] == second["id"]
    assert [use(owner, secret) for secret in (key.secret, first["key"], second["key"])] == [200, 401, 200]


def test_a_successor_that_was_used_and_revoked_is_replaced(owner: Owner, key: Key) -> None:
    """It is left as it ended, and its predecessor has another, as if that one had never been used."""
    first = owner.client.post(f"{key.path}/rotate").json
    assert use(owner, first["key"]) == 200
    assert owner.client.post(f"/api/keys/{first['id']}/revoke", {"reason": "compromised"}).status == 200
    before = owner.client.get(f"/api/keys/{first['id']}").json
    second = owner.client.post(f"{key.path}/rotate").json
    assert owner.client.get(f"/api/keys/{first['id']}").json == before
    assert owner.client.get(key.path).json["replaced_by"] == second["id"]
    assert [use(owner, secret) for secret in (key.secret, first["key"], second["key"])] == [200, 401, 200]


def test_a_lineage_whose_later_keys_have_all_ended_goes_on(owner: Owner, key: Key) -> None:
    """One that a retired successor has left is still in the way; once that has ended, too, nothing is."""
    first = owner.client.post(f"{key.path}/rotate").json
    second = owner.client.post(f"/api/keys/{first['id']}/rotate", {"grace_seconds": 0}).json
    assert owner.client.post(f"{key.path}/rotate").status == 409
    assert owner.client.post(f"/api/keys/{second['id']}/revoke").status == 200
    assert owner.client.post(f"{key.path}/rotate").status == 201


def test_a_used_successor_that_is_disabled_is_not_replaced(owner: Owner, key: Key) -> None:
    """409 that says what to do; enabled, it is the one to rotate."""
    successor = owner.client.post(f"{key.path}/rotate").json
    assert use(owner, successor["key"]) == 200
    assert owner.client.post(f"/api/keys/{successor['id']}/disable").status == 200
    heard = owner.client.post(f"{key.path}/rotate")
    assert heard.status == 409
    assert "enable it" in heard.json["error"]["message"]
    assert "revoke it" in heard.json["error"]["message"]
    assert owner.client.post(f"/api/keys/{successor['id']}/enable").status == 200
    assert owner.client.post(f"/api/keys/{successor['id']}/rotate").status == 201


def test_a_successor_in_use_is_not_replaced(server: HttpServer, owner: Owner, key: Key) -> None:
    """Once the successor was used, rotating its predecessor again is a 409 that changes nothing."""
    successor = owner.client.post(f"{key.path}/rotate").json
    assert use(owner, successor["key"]) == 200
    head = server.head()
    heard = owner.client.post(f"{key.path}/rotate")
    assert (heard.status, server.head()) == (409, head)
    assert use(owner, successor["key"]) == 200
    assert owner.client.post(f"/api/keys/{successor['id']}/rotate").status == 201


def test_a_lineage_has_one_head(server: HttpServer, owner: Owner, key: Key) -> None:
    """A successor that was rotated itself, unused, is not replaced from behind: 409, and its own successor stays."""
    first = owner.client.post(f"{key.path}/rotate").json
    second = owner.client.post(f"/api/keys/{first['id']}/rotate").json
    head = server.head()
    heard = owner.client.post(f"{key.path}/rotate")
    assert (heard.status, server.head()) == (409, head)
    assert use(owner, second["key"]) == 200


@pytest.mark.parametrize("state", ["revoked", "disabled", "expired"])
def test_a_stopped_key_is_not_rotated(server: HttpServer, owner: Owner, state: str) -> None:
    """A key that is revoked, disabled or expired: 409 that says so, and nothing changes."""
    account = owner.key.account_id
    ended = datetime.now(UTC) - DAY if state == "expired" else None
    key = server.back.key(account, expires_at=ended, ago=2 * DAY)
    if state != "expired":
        assert owner.client.post(f"{key.path}/{state.removesuffix('d')}").status == 200
    head = server.head()
    heard = owner.client.post(f"{key.path}/rotate")
    assert (heard.status, server.head()) == (409, head)
    assert state in heard.json["error"]["message"]


@pytest.mark.parametrize("state", ["revoked", "expired"])
@pytest.mark.parametrize("command", ["disable", "enable", "rename"])
def test_nothing_leaves_the_end(server: HttpServer, owner: Owner, state: str, command: str) -> None:
    """A key that has ended is neither changed, disabled nor enabled: 409."""
    ended = datetime.now(UTC) - DAY if state == "expired" else None
    key = server.back.key(owner.key.account_id, expires_at=ended, ago=2 * DAY)
    if state == "revoked":
        assert owner.client.post(f"{key.path}/revoke").status == 200
    rename = command == "rename"
    heard = owner.client.patch(key.path, {"name": "x"}) if rename else owner.client.post(f"{key.path}/{command}")
    assert (heard.status, status_of(owner, key)) == (409, state)


def test_a_revoked_key_is_refused_from_the_answer_on(owner: Owner, key: Key) -> None:
    """200 with the revoked key and the receipt of its end; the next use is refused."""
    assert use(owner, key.secret) == 200
    before = owner.client.get(key.path).json
    heard = owner.client.post(f"{key.path}/revoke", {"reason": "compromised", "note": "In a public repository"})
    assert use(owner, key.secret) == 401
    told = heard.json
    receipt = told.pop("receipt")
    assert heard.status == 200
    assert told == before | {"status": "revoked", "revoked_at": told["revoked_at"]}
    assert TIME.fullmatch(told["revoked_at"])
    assert list(receipt) == ["position", "processes", "waited_ms"]
    assert [type(value) for value in receipt.values()] == [int, int, int]
    event = owner.client.get(f"{key.path}/events").json["data"][-1]
    assert (event["type"], event["position"]) == ("key.revoked", receipt["position"])
    assert (event["data"]["reason"], event["data"]["note"]) == ("compromised", "In a public repository")
    assert event["occurred_at"] == told["revoked_at"]


def test_revoking_again_changes_nothing(server: HttpServer, owner: Owner, key: Key) -> None:
    """A second revoke is the same 200 with the same position, whatever reason it gives, and no second event."""
    first = owner.client.post(f"{key.path}/revoke", {"reason": "unused"}).json
    head = server.head()
    heard = owner.client.post(f"{key.path}/revoke", {"reason": "compromised"})
    second = heard.json
    assert (heard.status, server.head()) == (200, head)
    assert first.pop("receipt")["position"] == second.pop("receipt")["position"]
    assert first == second


def test_a_retired_key_stays_as_it_ended(server: HttpServer, owner: Owner) -> None:
    """Revoked at the end of its grace period, before that is on record and after, and whoever revokes it then."""
    key = server.back.key(owner.key.account_id, ago=3 * DAY)
    by = server.back.origin(ago=2 * DAY)
    server.back.manage.keys.rotate(
        account_id=owner.key.account_id, key_id=key.id, grace=DAY, grace_starts=GraceStart.NOW, by=by
    )
    before = owner.client.get(key.path).json
    assert (before["status"], before["revoked_at"]) == ("revoked", before["retires_at"])
    for _ in range(2):
        heard = owner.client.post(f"{key.path}/revoke", {"reason": "compromised"})
        assert heard.status == 200
        assert heard.json == before | {"receipt": heard.json["receipt"]}
        assert owner.client.get(key.path).json == before
    listed = owner.client.get("/api/keys?status=revoked").json["data"]
    assert listed == [before]
    last = owner.client.get(f"{key.path}/events").json["data"][-1]
    assert (last["type"], last["data"]["reason"]) == ("key.revoked", "rotated")


def test_a_key_may_revoke_itself(owner: Owner) -> None:
    """The answer arrives; it is the last that the key gets."""
    assert owner.client.post(f"{owner.key.path}/revoke").status == 200
    assert owner.client.get("/api/keys").status == 401


@pytest.mark.parametrize("reason", ["compromised", "unused", "rotated", "other"])
def test_the_reason_of_a_revocation_is_kept(owner: Owner, key: Key, reason: str) -> None:
    """Each reason of the contract is taken and stands in the history."""
    assert owner.client.post(f"{key.path}/revoke", {"reason": reason}).status == 200
    last = owner.client.get(f"{key.path}/events").json["data"][-1]
    assert (last["data"]["reason"], last["data"]["note"]) == (reason, None)


def test_disabling_is_reversible(server: HttpServer, owner: Owner, key: Key) -> None:
    """Disabled: refused like a revoked key. Enabled: accepted again. Either one twice: the same answer, no event."""
    for command, status, answer in (("disable", "disabled", 401), ("enable", "active", 200)):
        heard = owner.client.post(f"{key.path}/{command}")
        assert (heard.status, heard.json["status"], use(owner, key.secret)) == (200, status, answer)
        head = server.head()
        assert owner.client.post(f"{key.path}/{command}").json["status"] == status
        assert server.head() == head


def test_the_history_tells_every_step(owner: Owner, key: Key) -> None:
    """Each event with position, version, type, time, actor and its data, oldest first; no secret, no verifier."""
    client = owner.client
    requests = [
        client.patch(key.path, {"name": "Renamed", "scopes": ["keys:read"], "allowed_ips": None}),
        client.post(f"{key.path}/disable"),
        client.post(f"{key.path}/enable"),
        client.post(f"{key.path}/rotate", {"grace_seconds": 60}),
        client.post(f"{key.path}/revoke", {"reason": "unused"}),
    ]
    successor = requests[3].json["id"]
    events = client.get(f"{key.path}/events").json["data"]
    created, *later = events
    assert [(event["type"], event["data"]) for event in later] == [
        ("key.renamed", {"request_id": requests[0].request_id, "name": "Renamed"}),
        ("key.rescoped", {"request_id": requests[0].request_id, "scopes": ["keys:read"]}),
        ("key.networks_changed", {"request_id": requests[0].request_id, "allowed_ips": None}),
        ("key.disabled", {"request_id": requests[1].request_id}),
        ("key.enabled", {"request_id": requests[2].request_id}),
        (
            "key.rotated",
            {
                "request_id": requests[3].request_id,
                "successor_id": successor,
                "grace_seconds": 60,
                "grace_starts": "now",
                "retires_at": client.get(key.path).json["retires_at"],
            },
        ),
        ("key.revoked", {"request_id": requests[4].request_id, "reason": "unused", "note": None}),
    ]
    assert {event["actor"] for event in later} == {f"key:{owner.key.id}"}
    assert (created["type"], created["actor"]) == ("key.created", "cli:tester")
    assert set(created["data"]) == {
        "request_id", "name", "environment", "prefix", "scopes", "allowed_ips", "expires_at", "rotation_due_at",
        "lineage_id", "replaces",
    }  # fmt: skip
    assert [event["version"] for event in events] == list(range(1, 9))
    assert sorted({event["position"] for event in events}) == [event["position"] for event in events]
    for event in events:
        assert list(event) == ["position", "version", "type", "occurred_at", "actor", "data"]
        assert TIME.fullmatch(event["occurred_at"])
