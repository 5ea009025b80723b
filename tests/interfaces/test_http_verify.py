"""`POST /api/verify`: what another service of the account is told of a key that it was shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.api_key import RevocationReason
from domain.credential import Environment
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import Heard, another_address
from tests.kit.http_server import HttpServer, Key, serving

DAY = timedelta(days=1)


def verify(owner: Owner, key: str, **more: Any) -> Heard:
    """What the owner's service is told of the key, which came from an address of its own."""
    return owner.client.post("/api/verify", {"key": key, "ip": another_address(), **more})


def invalid(code: str) -> bytes:
    """The whole answer to a key that is not good."""
    return f'{{"valid":false,"code":"{code}"}}'.encode()


@pytest.fixture
def checked(server: HttpServer, owner: Owner) -> Key:
    """A key to be checked."""
    return server.back.key(
        owner.key.account_id,
        name="Customer",
        scopes=["campaigns:read", "keys:*"],
        networks=["192.0.2.0/24"],
        expires_at=datetime(2031, 1, 1, tzinfo=UTC),
    )


def test_a_good_key_is_told_whole(owner: Owner, checked: Key) -> None:
    """200 with the key's id, account, name, environment, scopes and expiry; the caller needs no more."""
    heard = verify(owner, checked.secret, ip="192.0.2.1", environment="live", scopes=["campaigns:read", "keys:write"])
    told = {
        "valid": True,
        "code": "VALID",
        "key_id": checked.id,
        "account_id": checked.account_id,
        "name": "Customer",
        "environment": "live",
        "scopes": ["campaigns:read", "keys:*"],
        "expires_at": "2031-01-01T00:00:00Z",
    }
    assert (heard.status, heard.json) == (200, told)
    assert list(heard.json) == list(told)


def test_a_key_without_limits_says_null(owner: Owner) -> None:
    """Full access and no expiry are nulls, not missing."""
    told = verify(owner, owner.key.secret).json
    assert (told["code"], told["scopes"], told["expires_at"]) == ("VALID", None, None)


ASKED = [
    ({"ip": "192.0.3.1"}, "FORBIDDEN_IP"),
    ({"ip": None}, "FORBIDDEN_IP"),
    ({"ip": "192.0.2.1", "environment": "dev"}, "WRONG_ENVIRONMENT"),
    ({"ip": "192.0.2.1", "scopes": ["campaigns:write"]}, "INSUFFICIENT_SCOPE"),
    ({"ip": "192.0.2.1", "scopes": ["campaigns:read", "campaigns:write"]}, "INSUFFICIENT_SCOPE"),
    ({"ip": "192.0.3.1", "scopes": ["campaigns:write"], "environment": "dev"}, "WRONG_ENVIRONMENT"),
]


@pytest.mark.parametrize(("asked", "code"), ASKED, ids=[code for _, code in ASKED])
def test_what_the_bearer_may_not_do_is_told(owner: Owner, checked: Key, asked: dict[str, Any], code: str) -> None:
    """A good key that does not allow what was asked for: 200 with the first reason, and nothing about the key."""
    heard = verify(owner, checked.secret, **asked)
    assert (heard.status, heard.body) == (200, invalid(code))


def test_a_key_that_ended_is_told(server: HttpServer, owner: Owner) -> None:
    """Revoked and disabled keys are REVOKED, one past its expiry is EXPIRED."""
    back, account = server.back, owner.key.account_id
    revoked, disabled = back.key(account), back.key(account)
    back.manage.keys.revoke(
        account_id=account, key_id=revoked.id, reason=RevocationReason.OTHER, note=None, by=back.origin()
    )
    back.manage.keys.disable(account_id=account, key_id=disabled.id, by=back.origin())
    expired = back.key(account, expires_at=datetime.now(UTC) - DAY, ago=2 * DAY)
    told = {key.id: verify(owner, key.secret).body for key in (revoked, disabled, expired)}
    assert told == {revoked.id: invalid("REVOKED"), disabled.id: invalid("REVOKED"), expired.id: invalid("EXPIRED")}


def test_another_accounts_key_is_like_one_that_never_was(owner: Owner, stranger: Owner) -> None:
    """A stranger's good key, a forged and a malformed one: the same bytes, and nothing is counted on the stranger's."""
    forged = stranger.key.secret[:-1] + ("1" if stranger.key.secret[-1] == "0" else "0")
    for key in (
        stranger.key.secret,
        "nonsense",
        "",
        "\u00e9",
        "\x00",
        "Bearer x",
        "k" * 513,
        f"{stranger.key.secret}{'0' * 5000}",
    ):
        heard = verify(owner, key)
        assert (heard.status, heard.body) == (200, invalid("NOT_FOUND")), key
    unproven = f"{stranger.key.secret[:20]}{'0' * (len(stranger.key.secret) - 20)}"
    for made_up in (forged, unproven):
        assert verify(owner, made_up, ip="192.0.2.77", method="DELETE", path="/x").body == invalid("NOT_FOUND")
    told = stranger.client.get(stranger.key.path).json
    assert (told["request_count"], told["failed_attempts"]) == (0, 0)
    assert stranger.client.get("/api/access-logs?status=401").json["data"] == []


def test_a_forgery_of_ones_own_key_counts_on_it(owner: Owner, checked: Key) -> None:
    """As a failed attempt of the checked key."""
    forged = checked.secret[:-1] + ("1" if checked.secret[-1] == "0" else "0")
    assert verify(owner, forged).body == invalid("NOT_FOUND")
    assert owner.client.get(checked.path).json["failed_attempts"] == 1


def test_a_check_counts_as_a_use_of_the_checked_key(server: HttpServer, owner: Owner, checked: Key) -> None:
    """A good answer is a use, a bad one a failed attempt; the row has the method and path that the caller names."""
    good = verify(owner, checked.secret, ip="192.0.2.9", method="DELETE", path="/orders/7?card=4111")
    verify(owner, checked.secret, ip="203.0.113.1")
    verify(owner, checked.secret, ip="192.0.2.9", environment="dev")
    told = owner.client.get(checked.path).json
    assert (told["request_count"], told["failed_attempts"]) == (1, 2)
    query = """
        SELECT key_id, method, endpoint, status, outcome, client_ip FROM usage.access_log
        WHERE request_id = %(id)s ORDER BY seq
    """
    [of_checked, of_caller] = server.rows(query, {"id": good.request_id})
    assert of_checked == (checked.id, "DELETE", "/orders/7", 200, "ok", "192.0.2.9")
    assert of_caller[:5] == (owner.key.id, "POST", "/api/verify", 200, "ok")


def test_guesses_passed_on_by_a_service_have_a_limit(conninfo: str, tmp_path: Path) -> None:
    """Failed checks from one client network over the limit are RATE_LIMITED; its good key is VALID all the while."""
    with serving(conninfo, tmp_path / "log", failed_attempts_per_minute="2") as own:
        key = own.back.key(own.back.account(), environment=Environment.DEV)
        with own.client(key.secret) as client:
            told = [client.post("/api/verify", {"key": "guess", "ip": "192.0.2.1"}).json["code"] for _ in range(3)]
            assert told == ["NOT_FOUND", "NOT_FOUND", "RATE_LIMITED"]
            assert client.post("/api/verify", {"key": key.secret, "ip": "192.0.2.1"}).json["code"] == "VALID"
            assert client.post("/api/verify", {"key": "guess", "ip": "192.0.2.2"}).json["code"] == "NOT_FOUND"
            assert client.post("/api/verify", {"key": "guess", "ip": "127.0.0.1"}).json["code"] == "NOT_FOUND"
            for _ in range(3):
                client.post("/api/verify", {"key": "guess", "ip": "127.0.0.1"})
            # Whom a service names is limited for that account: it could name anybody.
            assert client.get("/api/campaigns", key="guess").status == 401
        with own.client(own.back.key(own.back.account()).secret) as another:
            told = another.post("/api/verify", {"key": "guess", "ip": "192.0.2.1"}).json["code"]
            assert told == "NOT_FOUND"
