"""What an owner decides about rotation over HTTP: when a key is due, how long two overlap, and that one is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.interfaces.conftest import Owner
from tests.kit.http_server import HttpServer

DAY = timedelta(days=1)


def instant(text: str) -> datetime:
    """A time of an answer."""
    return datetime.fromisoformat(text)


def due_after(body: Any) -> timedelta:
    """The age at which the key of an answer is to be rotated."""
    return instant(body["rotation_due_at"]) - instant(body["created_at"])


def new(owner: Owner, **more: Any) -> Any:
    """A new key of the account."""
    heard = owner.client.post("/api/keys", {"name": "Worker", "environment": "live"} | more)
    assert heard.status == 201
    return heard.json


def test_the_accounts_default_applies_to_its_new_keys(owner: Owner) -> None:
    """Keys that exist keep their day; a key's own age wins; a successor has its predecessor's."""
    old = new(owner)
    account = owner.client.call("PATCH", "/api/account", {"rotation_due_days": 30}).json
    assert (account["id"], account["rotation_due_days"]) == (owner.key.account_id, 30)
    assert owner.client.get("/api/account").json == account
    assert due_after(owner.client.get(f"/api/keys/{old['id']}").json) == 90 * DAY
    assert due_after(new(owner)) == 30 * DAY
    own = new(owner, rotation_due_days=7)
    assert due_after(own) == 7 * DAY
    assert due_after(owner.client.post(f"/api/keys/{own['id']}/rotate").json) == 7 * DAY


def test_a_keys_day_can_be_changed(owner: Owner) -> None:
    """Counted from its making; on record once; nothing else of the key changes."""
    key = new(owner)
    for _ in range(2):
        changed = owner.client.call("PATCH", f"/api/keys/{key['id']}", {"rotation_due_days": 400}).json
    assert (due_after(changed), changed["rotation_due_days"]) == (400 * DAY, 400)
    types = [event["type"] for event in owner.client.get(f"/api/keys/{key['id']}/events").json["data"]]
    assert types == ["key.created", "key.rotation_due_changed"]
    for days in (0, 3651, "30", None, 1.5):
        assert owner.client.call("PATCH", f"/api/keys/{key['id']}", {"rotation_due_days": days}).status == 422


def test_a_compromised_key_ends_as_its_successor_begins(owner: Owner) -> None:
    """One call: the answer holds the successor, the old key is refused from it on, and the history says why."""
    key = new(owner)
    successor = owner.client.post(f"/api/keys/{key['id']}/rotate", {"compromised": True, "grace_seconds": 9000})
    assert successor.status == 201
    assert owner.client.get("/api/campaigns", key=key["key"]).status == 401
    assert owner.client.get("/api/campaigns", key=successor.json["key"]).status == 200
    told = owner.client.get(f"/api/keys/{key['id']}").json
    assert (told["status"], told["replaced_by"]) == ("revoked", successor.json["id"])
    last = owner.client.get(f"/api/keys/{key['id']}/events").json["data"][-1]
    assert (last["type"], last["data"]["reason"]) == ("key.revoked", "compromised")


def test_a_grace_period_is_extended(owner: Owner) -> None:
    """To that long from now, never to an earlier end; a day when nothing is said."""
    key = new(owner)
    path = f"/api/keys/{key['id']}/rotate"
    assert owner.client.post(f"{path}/extend").status == 409
    assert owner.client.post(path, {"grace_seconds": 60}).status == 201
    extended = owner.client.post(f"{path}/extend", {"grace_seconds": 7 * 86400})
    assert (extended.status, extended.json["status"]) == (200, "rotating")
    left = instant(extended.json["retires_at"]) - datetime.now(UTC)
    assert 7 * DAY - timedelta(minutes=1) < left <= 7 * DAY
    assert owner.client.post(f"{path}/extend").status == 409
    for seconds in (0, -1, 90 * 86400 + 1, "60"):
        assert owner.client.post(f"{path}/extend", {"grace_seconds": seconds}).status == 422


def test_answers_to_a_key_in_its_grace_period_say_so(server: HttpServer, owner: Owner) -> None:
    """`Deprecation` and, once the end is known, `Sunset`, on every route of ours and for proxies; on no other key."""
    key = server.back.key(owner.key.account_id, scopes=["campaigns:read"])
    paths = ("/api/campaigns", "/api/keys", "/auth/forward", "/auth/forward/x")  # the second is a 403
    before = int(datetime.now(UTC).timestamp())
    successor = owner.client.post(f"{key.path}/rotate", {"grace_starts": "first_use"}).json
    after = int(datetime.now(UTC).timestamp())
    for _ in range(2):
        for path in paths:
            heard = owner.client.get(path, key=key.secret)
            at = heard.header("deprecation")
            assert at is not None
            assert at.startswith("@")
            assert before <= int(at[1:]) <= after
            assert heard.header("sunset") is None
    owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600})
    ends = instant(owner.client.get(key.path).json["retires_at"])
    for path in paths:
        sunset = owner.client.get(path, key=key.secret).header("sunset")
        assert sunset is not None
        assert parsedate_to_datetime(sunset) == ends.replace(microsecond=0)
        plain = owner.client.get(path)
        assert (plain.header("deprecation"), plain.header("sunset")) == (None, None)
    refused = owner.client.get("/api/campaigns", key=successor["key"])  # replaced before anybody saw it
    assert (refused.status, refused.header("deprecation")) == (401, None)


@pytest.mark.parametrize("starts", ["now", "first_use"])
def test_a_key_in_its_grace_period_promises_no_life_beyond_its_expiry(owner: Owner, starts: str) -> None:
    """`Sunset` is the earlier of both ends (RFC 8594), and so is `retires_at` once it is known."""
    expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    key = new(owner, expires_at=expires)
    owner.client.post(f"/api/keys/{key['id']}/rotate", {"grace_seconds": 2 * 86400, "grace_starts": starts})
    told = owner.client.get(f"/api/keys/{key['id']}").json
    assert told["retires_at"] == (told["expires_at"] if starts == "now" else None)
    sunset = owner.client.get("/api/campaigns", key=key["key"]).header("sunset")
    assert sunset is not None
    assert parsedate_to_datetime(sunset) == instant(told["expires_at"]).replace(microsecond=0)


def test_an_owner_chooses_the_webhook_that_is_handed_over_successors(owner: Owner) -> None:
    """None at first; one of the account's own; and none again."""
    assert owner.client.get("/api/account").json["hand_over_to"] is None
    hook = owner.client.post("/api/webhooks", {"url": "https://hooks.acme.example/", "events": ["key.*"]}).json["id"]
    for wanted in (hook, None):
        assert owner.client.call("PATCH", "/api/account", {"hand_over_to": wanted}).json["hand_over_to"] == wanted
    for wanted, status in (("whe_" + "0" * (len(hook) - 4), 404), ("elsewhere", 422)):
        assert owner.client.call("PATCH", "/api/account", {"hand_over_to": wanted}).status == status


def test_a_webhook_that_is_disabled_or_gone_is_handed_over_nothing(owner: Owner) -> None:
    """A disabled one cannot be chosen (409); one that was chosen is named until it is deleted."""
    hook = owner.client.post("/api/webhooks", {"url": "https://hooks.acme.example/", "events": ["key.*"]}).json["id"]
    choice, path = {"hand_over_to": hook}, f"/api/webhooks/{hook}"
    assert owner.client.call("PATCH", path, {"status": "disabled"}).status == 200
    assert owner.client.call("PATCH", "/api/account", choice).status == 409
    assert owner.client.get("/api/account").json["hand_over_to"] is None
    assert owner.client.call("PATCH", path, {"status": "enabled"}).status == 200
    assert owner.client.call("PATCH", "/api/account", choice).status == 200
    assert owner.client.call("PATCH", path, {"status": "disabled"}).status == 200
    assert owner.client.get("/api/account").json["hand_over_to"] == hook
    assert owner.client.call("DELETE", path).status == 204
    assert owner.client.get("/api/account").json["hand_over_to"] is None
