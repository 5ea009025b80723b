"""`/auth/forward`: what a reverse proxy is told, and what is written down of the request that it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interfaces.conftest import Owner
from tests.kit.http_answers import StrictClient
from tests.kit.http_server import HttpServer, serving

IDENTITY = ["x-keyledger-key-id", "x-keyledger-account-id", "x-keyledger-environment", "x-keyledger-scopes"]
NOBODY = dict.fromkeys(IDENTITY, "")


@pytest.mark.parametrize(
    "path", ["/auth/forward", "/auth/forward/", "/auth/forward/orders/7?card=1", "/auth/forward?x=1"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"])
def test_a_good_key_passes_with_its_identity(owner: Owner, method: str, path: str) -> None:
    """200 without a body, whatever the method and path: who the key is, in headers that are all there."""
    heard = owner.client.call(method, path)
    assert (heard.status, heard.body) == (200, b"")
    assert {name: heard.header(name) for name in IDENTITY} == {
        "x-keyledger-key-id": owner.key.id,
        "x-keyledger-account-id": owner.key.account_id,
        "x-keyledger-environment": "live",
        "x-keyledger-scopes": "",
    }


def test_scopes_are_told_in_one_line(server: HttpServer, owner: Owner) -> None:
    """The scopes of a key that has some, separated by spaces."""
    key = server.back.key(owner.key.account_id, scopes=["keys:read", "campaigns:*"])
    assert owner.client.get("/auth/forward", key=key.secret).header("x-keyledger-scopes") == "campaigns:* keys:read"


def test_a_refusal_is_that_of_a_direct_call(server: HttpServer, owner: Owner) -> None:
    """401 and 403 in the bytes of every other route; the identity headers are there and empty, whatever was sent."""
    fenced = server.back.key(owner.key.account_id, networks=["192.0.2.0/24"]).secret
    spoofed = [(name, "mine") for name in IDENTITY]
    with server.client() as client:
        for key in (None, "nonsense", fenced):
            status, headers, body = client.get("/auth/forward", key=key, headers=spoofed).told()
            direct_status, direct_headers, direct_body = client.get("/api/campaigns", key=key).told()
            assert (status, body) == (direct_status, direct_body)
            assert headers == direct_headers | NOBODY


def test_a_path_that_only_begins_alike_is_another(owner: Owner) -> None:
    """`/auth/forwarded` is no question of a proxy."""
    assert [owner.client.get(path).status for path in ("/auth/forwarded", "/auth", "/auth/forward.x")] == [404] * 3


ASKED = [
    ([("X-Forwarded-Method", "DELETE"), ("X-Forwarded-Uri", "/orders/7?card=4111")], ("DELETE", "/orders/7")),
    ([("X-Original-Method", "PUT"), ("X-Original-URI", "/orders/8?card=4111")], ("PUT", "/orders/8")),
    ([], ("GET", "/orders/9")),
]


@pytest.mark.parametrize(("headers", "logged"), ASKED, ids=["traefik, caddy", "nginx", "envoy"])
def test_the_request_that_is_logged_is_the_proxys(
    server: HttpServer, owner: Owner, headers: list[tuple[str, str]], logged: tuple[str, str]
) -> None:
    """The access row has the original method and path, without its query, once."""
    path = "/auth/forward" if headers else "/auth/forward/orders/9?card=4111"
    heard = owner.client.get(path, headers=headers)
    query = "SELECT method, endpoint, status, key_id FROM usage.access_log WHERE request_id = %(id)s"
    assert server.rows(query, {"id": heard.request_id}) == [(*logged, 200, owner.key.id)]


@pytest.fixture
def own(conninfo: str, tmp_path: Path) -> Iterator[HttpServer]:
    """A server without trusted proxies, where one wrong guess a minute is too many."""
    with serving(conninfo, tmp_path / "log", trusted_proxies="", failed_attempts_per_minute="1") as running:
        yield running


@pytest.fixture
def client(own: HttpServer) -> Iterator[StrictClient]:
    """A client of it, with a good key."""
    with own.client(own.back.key(own.back.account()).secret) as opened:
        yield opened


def test_a_caller_that_is_no_proxy_speaks_for_itself(own: HttpServer, client: StrictClient) -> None:
    """What it says of an original request is not written down."""
    heard = client.get("/auth/forward", headers=[("X-Forwarded-Method", "DELETE"), ("X-Forwarded-Uri", "/orders/7")])
    query = "SELECT method, endpoint FROM usage.access_log WHERE request_id = %(id)s"
    assert own.rows(query, {"id": heard.request_id}) == [("GET", "/auth/forward")]


def test_nginx_is_told_in_the_words_that_it_knows(own: HttpServer, client: StrictClient) -> None:
    """`?dialect=nginx`: what would be a 429 is a 403 with the same body, since nginx makes a 500 of the rest."""
    assert client.get("/auth/forward", key="guess").status == 401
    plain = client.get("/auth/forward", key="guess")
    ask = b"GET /auth/forward?dialect=nginx HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    [told] = own.hear(ask + b"Authorization: Bearer guess\r\n\r\n")
    assert plain.status == 429
    assert {name: plain.header(name) for name in IDENTITY} == NOBODY
    assert (told.status, told.body) == (403, plain.body)
    assert {name: told.header(name) for name in IDENTITY} == NOBODY
    assert client.get("/auth/forward?dialect=nginx").status == 200


@pytest.mark.parametrize("query", [b"q=%C3%A9", b"q=\xc3\xa9", b"%FF=1&dialect=%FF", b"=&;&q"])
def test_whatever_the_query_a_refusal_is_the_same(own: HttpServer, query: bytes) -> None:
    """Envoy hands the client's on: one that cannot be read is no dialect, and no fault of ours."""
    ask = b"GET /auth/forward?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer guess\r\n\r\n"
    heard = [own.hear(ask % query)[0] for _ in range(2)]
    assert heard[-1].status == 429
    assert {name: heard[-1].header(name) for name in IDENTITY} == NOBODY


def test_a_caller_that_is_none_of_the_proxies_speaks_for_itself(conninfo: str, tmp_path: Path) -> None:
    """Where there are trusted proxies, too: asked once and again, its row has what it asked for itself."""
    asked = [("X-Forwarded-Method", "DELETE"), ("X-Forwarded-Uri", "/orders/7")]
    with (
        serving(conninfo, tmp_path / "log", trusted_proxies="203.0.113.0/24") as other,
        other.client(other.back.key(other.back.account()).secret) as direct,
    ):
        assert [direct.get("/auth/forward", headers=asked).status for _ in range(2)] == [200, 200]
        query = "SELECT method, endpoint, client_ip FROM usage.access_log"
        assert other.rows(query) == [("GET", "/auth/forward", "127.0.0.1")] * 2


def test_an_answer_is_that_of_the_key_as_it_is(server: HttpServer, owner: Owner) -> None:
    """However often the same was asked before: a change of the key's scopes and its rotation are told from then on."""
    key = server.back.key(owner.key.account_id, scopes=["keys:read"])
    here = [("X-Forwarded-For", "198.51.100.7")]

    def told(name: str) -> list[str | None]:
        heard = [owner.client.get("/auth/forward", key=key.secret, headers=here) for _ in range(3)]
        assert [each.status for each in heard] == [200] * 3
        return [each.header(name) for each in heard]

    assert told("x-keyledger-scopes") == ["keys:read"] * 3
    assert owner.client.patch(key.path, {"scopes": ["keys:write"]}).status == 200
    assert told("x-keyledger-scopes") == ["keys:write"] * 3
    assert told("deprecation") == [None] * 3
    assert owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600}).status == 201
    assert None not in told("deprecation")
    assert None not in told("sunset")


def test_a_refusal_of_what_a_key_may_not_do_says_that_it_ends(server: HttpServer, owner: Owner) -> None:
    """As at every other door: 403 with the dates of its grace period; 401 tells nothing of the key."""
    key = server.back.key(owner.key.account_id, networks=["192.0.2.0/24"])
    away = [("X-Forwarded-For", "198.51.100.7")]
    assert owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600}).status == 201
    refused = owner.client.get("/auth/forward", key=key.secret, headers=away)
    direct = owner.client.get("/api/campaigns", key=key.secret, headers=away)
    assert (refused.status, direct.status) == (403, 403)
    for name in ("deprecation", "sunset"):
        assert refused.header(name) == direct.header(name) is not None
    assert owner.client.post(f"{key.path}/revoke").status == 200
    ended = owner.client.get("/auth/forward", key=key.secret, headers=away)
    assert (ended.status, ended.header("deprecation")) == (401, None)
