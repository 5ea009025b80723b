"""401: whatever is wrong with a credential, its sender learns nothing; the access log knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.api_key import GraceStart, RevocationReason
from domain.credential import Environment, mint_key
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import Heard, another_address, check_answer
from tests.kit.http_server import Back, HttpServer, serving

DAY = timedelta(days=1)
INVALID_KEY = b'{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}'
TOLD = {
    "content-type": "application/json",
    "content-length": str(len(INVALID_KEY)),
    "www-authenticate": 'Bearer realm="keyledger", error="invalid_token"',
    "server": "granian",
}


def forged(back: Back) -> str:
    """A key with another tag."""
    secret = back.key(back.account()).secret
    return secret[:-1] + ("1" if secret[-1] == "0" else "0")


def unknown(back: Back) -> str:
    """A key as only we can make them, that was never given out."""
    _, secret = mint_key(Environment.LIVE, id_entropy=b"i" * 16, secret_entropy=b"s" * 32, tag=back.core.ring.tag)
    return secret.reveal()


def resealed(back: Back, *, environment: str = "live", secret: str | None = None) -> str:
    """A key's id with another environment or secret, under the tag that only we can make."""
    key = back.key(back.account())
    _, _, identity, rest = key.secret.split("_")
    signed = f"sk_{environment}_{identity}_{secret or rest[:32]}"
    return signed + back.core.ring.tag(signed.encode()).decode()


def revoked(back: Back) -> str:
    """A key that was revoked."""
    key = back.key(back.account())
    back.manage.keys.revoke(
        account_id=key.account_id, key_id=key.id, reason=RevocationReason.OTHER, note=None, by=back.origin()
    )
    return key.secret


def retired(back: Back) -> str:
    """A key whose rotation's grace period is over, which no event says yet."""
    key = back.key(back.account(), ago=3 * DAY)
    back.manage.keys.rotate(
        account_id=key.account_id, key_id=key.id, grace=DAY, grace_starts=GraceStart.NOW, by=back.origin(ago=2 * DAY)
    )
    return key.secret


def expired(back: Back) -> str:
    """A key past its expiry, which no event says yet."""
    return back.key(back.account(), expires_at=datetime.now(UTC) - DAY, ago=2 * DAY).secret


def disabled(back: Back) -> str:
    """A disabled key."""
    key = back.key(back.account())
    back.manage.keys.disable(account_id=key.account_id, key_id=key.id, by=back.origin())
    return key.secret


def suspended(back: Back) -> str:
    """A key of a suspended account."""
    key = back.key(back.account())
    back.manage.accounts.suspend(account_id=key.account_id, by=back.origin())
    return key.secret


REFUSED: list[tuple[str, Callable[[Back], str]]] = [
    ("malformed", lambda _: "nonsense"),
    ("malformed", lambda _: "sk_live_"),
    ("malformed", lambda _: ""),
    ("malformed", lambda back: f"{back.key(back.account()).secret}x"),
    ("malformed", lambda back: f"{back.key(back.account()).secret}, x"),
    ("malformed", lambda back: f"Bearer {back.key(back.account()).secret}"),
    ("malformed", lambda _: "sk_live_" + "0" * 600),
    ("malformed", lambda _: "\xe9\xff"),
    ("malformed", lambda back: f"sk_live_000000000_{back.key(back.account()).secret[-43:]}\xa0"),
    ("forged", forged),
    ("forged", lambda _: f"sk_live_000000000_{'0' * 43}"),
    ("unknown", unknown),
    ("wrong_secret", lambda back: resealed(back, secret="s" * 32)),
    ("wrong_secret", lambda back: resealed(back, environment="dev")),
    ("revoked", revoked),
    ("revoked", retired),
    ("expired", expired),
    ("disabled", disabled),
    ("suspended", suspended),
]


@pytest.mark.parametrize(("outcome", "credential"), REFUSED, ids=[f"{name}-{n}" for n, (name, _) in enumerate(REFUSED)])
def test_a_refused_credential_tells_its_sender_nothing(
    server: HttpServer, outcome: str, credential: Callable[[Back], str]
) -> None:
    """Each reason for a refusal is answered with the same headers and bytes; the access row holds the reason."""
    sent = credential(server.back)
    with server.client() as client:
        heard = client.get("/api/campaigns", headers=[("Authorization", b"Bearer " + sent.encode("latin-1"))])
    assert heard.told() == (401, TOLD, INVALID_KEY)
    assert row_of(server, heard) == (outcome, 401, False)


def test_a_request_without_a_credential_is_refused_in_the_same_bytes(server: HttpServer) -> None:
    """Nothing sent: the same body, and a challenge without an error code (RFC 6750 section 3.1)."""
    with server.client() as client:
        heard = client.get("/api/campaigns")
    assert heard.told() == (401, TOLD | {"www-authenticate": 'Bearer realm="keyledger"'}, INVALID_KEY)
    assert row_of(server, heard) == ("missing", 401, False)


HEADERS = [
    "Authorization: {key}",
    "Authorization: Basic {key}",
    "Authorization: Token {key}",
    "Authorization: Bearer",
    "Authorization: Bearer ",
    "Authorization:",
    "Authorization: Bearer\t{key}",
    "Authorization: Bearer={key}",
    "Authorization: Bearer {key}\r\nAuthorization: Bearer {key}",
    "Authorization: Bearer {key}\r\nAuthorization: Basic x",
    "Authorization: Bearer nonsense\r\nauthorization: Bearer {key}",
    "Authorization: Bearer {key}\r\nAUTHORIZATION:",
    "Authorization: Bearer {key};charset=utf-8",
    "Authorization: Bearer {key} {key}",
]


@pytest.mark.parametrize("lines", HEADERS)
def test_a_header_that_cannot_be_taken_is_a_refusal_like_any_other(
    server: HttpServer, owner: Owner, lines: str
) -> None:
    """A good key in another scheme, in two lines, or with something beside it: the same 401."""
    [heard] = server.hear(request("/api/campaigns", lines.format(key=owner.key.secret)))
    check_answer(heard)
    assert heard.told() == (401, TOLD, INVALID_KEY)


@pytest.mark.parametrize("lines", ["Authorization: bEARER {key}", "AUTHORIZATION:   Bearer   {key}  "])
def test_a_scheme_is_read_in_any_case(server: HttpServer, owner: Owner, lines: str) -> None:
    """The scheme's letters may be of any case (RFC 9110 section 11.1), and spaces around the key are not part of it."""
    [heard] = server.hear(request("/api/campaigns", lines.format(key=owner.key.secret)))
    assert heard.status == 200


def test_a_key_is_taken_from_the_header_alone(owner: Owner, server: HttpServer) -> None:
    """A key in the query, in a cookie or in another header authenticates nobody."""
    key = owner.key.secret
    with server.client() as client:
        for heard in (
            client.get(f"/api/campaigns?access_token={key}&api_key={key}&key={key}"),
            client.get("/api/campaigns", headers=[("Cookie", f"key={key}; Authorization=Bearer {key}")]),
            client.get("/api/campaigns", headers=[("X-Api-Key", key), ("Proxy-Authorization", f"Bearer {key}")]),
        ):
            assert (heard.status, heard.body) == (401, INVALID_KEY)


def test_the_refusal_comes_before_all_else(server: HttpServer, owner: Owner) -> None:
    """Without a good key nobody learns whether an id exists, a field is wrong, or a body is too large."""
    head = server.head()
    with server.client() as client:
        for method, path, body in (
            ("GET", owner.key.path, None),
            ("GET", "/api/keys/key_000000000", None),
            ("GET", "/api/keys?limit=0&cursor=x&status=x", None),
            ("POST", f"{owner.key.path}/revoke", b"{"),
            ("POST", "/api/keys", b"x" * 10_000),
            ("PATCH", owner.key.path, b'{"name":"Mine now"}'),
        ):
            assert client.call(method, path, body=body).body == INVALID_KEY
    assert server.head() == head


def test_a_server_accepts_its_environments_alone(conninfo: str, tmp_path: Path) -> None:
    """`KEYLEDGER_ENVIRONMENTS`: a good key of another environment is refused like any, and can still be managed."""
    with serving(conninfo, tmp_path / "log", environments="live,staging") as own, own.client() as client:
        account = own.back.account()
        keys = {each: own.back.key(account, environment=each) for each in Environment}
        told = {each: client.get("/api/campaigns", key=keys[each].secret) for each in Environment}
        assert {each: heard.status for each, heard in told.items()} == {
            Environment.LIVE: 200, Environment.STAGING: 200, Environment.DEV: 401,
        }  # fmt: skip
        refused = told[Environment.DEV]
        assert refused.told() == (401, TOLD, INVALID_KEY)
        assert row_of(own, refused) == ("wrong_environment", 401, False)
        assert client.get(keys[Environment.DEV].path, key=keys[Environment.LIVE].secret).json["status"] == "active"


def test_failed_attempts_have_a_limit_and_a_good_key_has_none(conninfo: str, tmp_path: Path) -> None:
    """Over the limit a client network gets 429 with Retry-After, without a row; a good key from there is accepted."""
    with serving(conninfo, tmp_path / "log", failed_attempts_per_minute="3") as own, own.client() as client:
        good = own.back.key(own.back.account()).secret
        here = [("X-Forwarded-For", "2001:db8:1:2::1")]
        neighbour = [("X-Forwarded-For", "2001:db8:1:2:3:4:5:6")]
        elsewhere = [("X-Forwarded-For", "2001:db8:1:3::1")]
        statuses = [client.get("/api/campaigns", key="nonsense", headers=here).status for _ in range(3)]
        limited = [client.get("/api/campaigns", key="nonsense", headers=where) for where in (here, neighbour)]
        assert statuses == [401, 401, 401]
        for heard in limited:
            assert heard.body == b'{"error":{"code":"RATE_LIMITED","message":"Too many failed attempts"}}'
            assert 1 <= int(heard.header("retry-after") or 0) <= 60
            assert own.rows("SELECT 1 FROM usage.access_log WHERE request_id = %(id)s", {"id": heard.request_id}) == []
        assert client.get("/api/campaigns", key=good, headers=here).status == 200
        assert client.get("/api/campaigns", headers=here).status == 401  # nothing was sent, so nothing was guessed
        assert client.get("/api/campaigns", key="nonsense", headers=elsewhere).status == 401


def request(path: str, lines: str) -> bytes:
    """A GET with these header lines, after which the server closes."""
    asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: {another_address()}\r\n"
    return f"{asked}{lines}\r\n\r\n".encode()


def row_of(server: HttpServer, heard: Heard) -> tuple[object, ...]:
    """Outcome, status and acceptance of the one access row that the request left."""
    query = "SELECT outcome, status, accepted FROM usage.access_log WHERE request_id = %(id)s"
    [row] = server.rows(query, {"id": heard.request_id})
    return row
