"""`ops/proxies`: behind the proxy nothing arrives but what Keyledger let through, and nobody is but who it says.

nginx and Caddy are Debian's packages, which `ops/test` installs as root. Traefik and Envoy, which Debian has not, go
through the same tests wherever their programs are found. Clients have addresses of their own in 127.0.0.0/8.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from tests.kit.databases import away
from tests.kit.proxies import (
    IDENTITY,
    EchoService,
    Got,
    Proxy,
    another_client,
    echo_service,
    program,
    proxying,
)
from tests.kit.service import Service, eventually

pytestmark = pytest.mark.journey

DEBIAN = ("nginx", "caddy")
NAMES = (*DEBIAN, *(name for name in ("traefik", "envoy") if program(name) is not None))
FAILED_ATTEMPTS = 5
INVALID_KEY = b'{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}'
FORBIDDEN = b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'
RATE_LIMITED = b'{"error":{"code":"RATE_LIMITED","message":"Too many failed attempts"}}'
FORGED = f"sk_live_000000000_{'0' * 43}"
SPOOFED = "spoofed"
NO_ANSWER = {403, 500, 502, 503, 504}
"""What a proxy may say when Keyledger says nothing."""


@pytest.fixture(scope="module")
def keyledger() -> Iterator[Service]:
    """Keyledger on two workers, for proxies on this machine."""
    with (
        TemporaryDirectory(prefix="keyledger-") as place,
        Service(Path(place), workers=2, trusted_proxies="127.0.0.1", failed_attempts_per_minute=FAILED_ATTEMPTS) as one,
    ):
        yield one


@pytest.fixture(scope="module")
def service() -> Iterator[EchoService]:
    """What the proxies protect."""
    with echo_service() as running:
        yield running


@pytest.fixture(scope="module")
def proxies(
    keyledger: Service, service: EchoService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Proxy]]:
    """All of them, by name; to an ordinary user, who cannot install any, those that there are."""
    with ExitStack() as stack:
        running: dict[str, Proxy] = {}
        for name in NAMES:
            if program(name) is not None or os.geteuid() == 0:
                place = tmp_path_factory.mktemp(name)
                one = stack.enter_context(proxying(name, place, keyledger=keyledger.port, service=service))
                passes = partial(one.passes, keyledger.demo_key)
                eventually(passes, f"{name} lets requests through")  # Traefik listens before it knows its routes
                running[name] = one
        yield running


@pytest.fixture(params=NAMES)
def proxy(request: pytest.FixtureRequest, proxies: dict[str, Proxy]) -> Proxy:
    """Each proxy in turn."""
    name: str = request.param
    if name not in proxies:
        pytest.skip(f"{name} is not installed, and only root can do that: it is Debian's package {name}")
    return proxies[name]


def create(keyledger: Service, **values: Any) -> dict[str, Any]:
    """A new key of the demo account."""
    with keyledger.client(keyledger.demo_key) as client:
        return client.done("POST", "/api/keys", {"name": "Behind a proxy", "environment": "live"} | values)


def revoke(keyledger: Service, key: dict[str, Any]) -> None:
    """When this returns, the key is revoked."""
    with keyledger.client(keyledger.demo_key) as client:
        client.done("POST", f"/api/keys/{key['id']}/revoke")


@pytest.fixture
def key(keyledger: Service) -> dict[str, Any]:
    """A key of the test's own."""
    return create(keyledger)


@pytest.fixture(scope="module")
def free(keyledger: Service) -> dict[str, Any]:
    """A key with full access, for which Keyledger's word on scopes is empty."""
    return create(keyledger)


@pytest.fixture(scope="module")
def scoped(keyledger: Service) -> dict[str, Any]:
    """A key with scopes."""
    return create(keyledger, scopes=["campaigns:write", "campaigns:read"])


def identity_of(key: dict[str, Any], got: Got) -> dict[str, list[str]]:
    """What the service has to see of this key; the account is the one account that there is."""
    expected = {
        "x-keyledger-key-id": [key["id"]],
        "x-keyledger-account-id": got.seen.identity.get("x-keyledger-account-id", []),
        "x-keyledger-environment": [key["environment"]],
    }
    assert [account[:4] for account in expected["x-keyledger-account-id"]] == ["acc_"]
    return expected | ({"x-keyledger-scopes": [" ".join(sorted(key["scopes"]))]} if key["scopes"] else {})


@contextmanager
def nothing_passes(service: EchoService) -> Iterator[None]:
    """While the block runs the service is asked nothing."""
    before = service.asked
    yield
    assert service.asked == before


# -- who passes


def test_a_good_key_passes_with_its_identity(proxy: Proxy, scoped: dict[str, Any]) -> None:
    """The request arrives whole, with the key's identity and without the key."""
    got = proxy.ask(scoped["key"], method="PUT", path="/a/b%20c?q=1&r=%2F", body=b"x" * 300_000)
    seen = got.seen
    assert (seen.method, seen.target, seen.body_bytes) == ("PUT", "/a/b%20c?q=1&r=%2F", 300_000)
    assert seen.identity == identity_of(scoped, got)
    assert seen.values("authorization") == []
    assert scoped["key"] not in str(seen)


def test_what_the_service_answers_is_its_own(proxy: Proxy, free: dict[str, Any]) -> None:
    """Its 401, 403, 429, 500 and 503 are not taken for Keyledger's; HEAD has no body."""
    for status in (401, 403, 429, 500, 503):
        got = proxy.ask(free["key"], lines=[("X-Answer", str(status))])
        assert got.status == status
        assert b'"target"' in got.body
    head = proxy.ask(free["key"], method="HEAD")
    assert (head.status, head.body) == (200, b"")


SPELLINGS = [
    [(name.title(), SPOOFED) for name in IDENTITY],
    [(name, SPOOFED) for name in IDENTITY for _ in range(2)],
    [(name.upper(), SPOOFED) for name in IDENTITY],
    [(name.title(), "") for name in IDENTITY],
    [(name.replace("-", "_").title(), SPOOFED) for name in IDENTITY],
    [(name.replace("-", "_", 1).upper(), SPOOFED) for name in IDENTITY],
    [("X-Keyledger-Key_Id", SPOOFED), ("X-Keyledger_Scopes", SPOOFED), ("x-keyledger_account-id", SPOOFED)],
]


@pytest.mark.parametrize("lines", SPELLINGS, ids=range(len(SPELLINGS)))
def test_nobody_can_say_who_he_is(
    proxy: Proxy, free: dict[str, Any], scoped: dict[str, Any], lines: list[tuple[str, str]]
) -> None:
    """Identity headers of the client's own, however spelt, also where Keyledger's is empty: none arrives."""
    for key in (free, scoped):
        got = proxy.ask(key["key"], lines=lines)
        assert got.seen.identity == identity_of(key, got)
        assert SPOOFED not in got.body.decode()


def test_nobody_can_drop_who_he_is(proxy: Proxy, scoped: dict[str, Any]) -> None:
    """Headers that the client names in Connection are dropped on the way; the identity, and so its limits, are not."""
    for named in (", ".join(IDENTITY), "X-Keyledger-Scopes", "close, x-keyledger-scopes"):
        got = proxy.ask(scoped["key"], lines=[("Connection", named)])
        assert got.seen.identity == identity_of(scoped, got)


def test_nobody_can_say_where_he_is(proxy: Proxy, keyledger: Service, key: dict[str, Any]) -> None:
    """Addresses, paths and methods in the client's own headers: neither service nor access log believes them."""
    client = another_client()
    path = f"/who/{client}"
    lines = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X_Forwarded_For", SPOOFED),
        ("Forwarded", f"for={SPOOFED}"),
        ("X-Real-IP", SPOOFED),
        *((name, f"/{SPOOFED}") for name in ("X-Forwarded-Uri", "X-Original-URI", "X-Original-URL")),
        *((name, SPOOFED) for name in ("X-Forwarded-Method", "X-Original-Method")),
        *((f"X-Forwarded-{name}", SPOOFED) for name in ("Host", "Port", "Prefix", "Proto", "Server", "Ssl", "User")),
    ]
    got = proxy.ask(key["key"], method="PATCH", path=path, lines=lines, client=client)
    assert got.seen.values("x-forwarded-for") == [client]
    assert SPOOFED not in got.body.decode()
    assert rows(keyledger, key) == [("PATCH", path, 200, client)]


def test_the_access_log_has_what_was_asked_of_the_proxy(proxy: Proxy, keyledger: Service, key: dict[str, Any]) -> None:
    """Method, path, status and client of the request itself; no query, and no key however it is written."""
    client = another_client()
    percent = key["key"].replace("_", "%5F")
    proxy.ask(key["key"], method="DELETE", path=f"/a%20b/{percent}?token=secret&next=/x", client=client)
    revoke(keyledger, key)
    proxy.ask(key["key"], method="HEAD", path="/later?token=secret", client=client)
    assert rows(keyledger, key) == [
        ("DELETE", f"/a b/{key['prefix']}…", 200, client),
        ("HEAD", "/later", 401, client),
    ]


def rows(keyledger: Service, key: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The access rows of the key, oldest first."""
    query = "SELECT method, endpoint, status, client_ip FROM usage.access_log WHERE key_id = %s ORDER BY occurred_at"
    with psycopg.connect(keyledger.conninfo) as connection:
        return connection.execute(query, [key["id"]]).fetchall()


def test_connections_to_keyledger_are_kept(proxy: Proxy, keyledger: Service) -> None:
    """Requests that each come on a connection of their own go to Keyledger over one, one after another."""
    proxy.ask(keyledger.demo_key)
    kept = proxy.connections_to(keyledger.port)
    for _ in range(10):
        proxy.ask(keyledger.demo_key)
    assert kept
    assert proxy.connections_to(keyledger.port) == kept


# -- who does not


def test_a_refusal_reaches_the_client_as_keyledger_words_it(proxy: Proxy, service: EchoService) -> None:
    """No key, a forged and a malformed one: the bytes and the challenge of a direct call, and nothing passes."""
    challenge = 'Bearer realm="keyledger"'
    with nothing_passes(service):
        for credential in (None, FORGED, "nonsense"):
            got = proxy.ask(credential)
            assert (got.status, got.body, got.header("content-type")) == (401, INVALID_KEY, "application/json")
            assert got.header("www-authenticate") == challenge + (', error="invalid_token"' if credential else "")
            assert (got.header("x-request-id") or "").startswith("req_")
            assert proxy.ask(credential, method="HEAD").body == b""
            assert proxy.ask(credential, method="POST", body=b"x" * 10_000).status == 401


def test_two_keys_are_none(proxy: Proxy, service: EchoService, free: dict[str, Any]) -> None:
    """Two Authorization lines, in either order and in any case, are refused: no two programs read them alike."""
    good = f"Bearer {free['key']}"
    with nothing_passes(service):
        for pair in ((good, good), (good, "Bearer x"), ("Basic eDp5", good)):
            # nginx answers 400 to them itself.
            assert proxy.ask(lines=[("Authorization", pair[0]), ("authorization", pair[1])]).status in {400, 401}


def test_a_revoked_key_is_refused_at_once(proxy: Proxy, service: EchoService, keyledger: Service) -> None:
    """When the revoke has answered, no request with the key passes the proxy."""
    for _ in range(3):
        key = create(keyledger)
        assert proxy.ask(key["key"]).status == 200
        revoke(keyledger, key)
        with nothing_passes(service):
            assert [proxy.ask(key["key"]).status for _ in range(4)] == [401] * 4


def test_a_keys_networks_hold_behind_the_proxy(proxy: Proxy, service: EchoService, keyledger: Service) -> None:
    """`allowed_ips` are judged by the address that the client has, not by the proxy's or one that the client writes."""
    home, abroad = another_client(), another_client()
    key = create(keyledger, allowed_ips=[home])
    assert proxy.ask(key["key"], client=home, lines=[("X-Forwarded-For", "203.0.113.9")]).status == 200
    with nothing_passes(service):
        for lines in (
            (),
            [("X-Forwarded-For", home)],
            [("X-Forwarded-For", f"{home}, 127.0.0.1")],
            [("X-Real-IP", home)],
        ):
            got = proxy.ask(key["key"], client=abroad, lines=lines)
            assert (got.status, got.body, got.header("content-type")) == (403, FORBIDDEN, "application/json")
            assert got.header("www-authenticate") is None


def test_failed_attempts_are_limited_by_client_not_by_proxy(
    proxy: Proxy, service: EchoService, keyledger: Service
) -> None:
    """Over the limit: 429 and Retry-After, whatever address the client writes; no other client is held back."""
    guesser = another_client()
    lines = [("X-Forwarded-For", another_client())]
    with nothing_passes(service):
        told = [proxy.ask(FORGED, client=guesser, lines=lines) for _ in range(FAILED_ATTEMPTS + 2)]
        assert [got.status for got in told] == [401] * FAILED_ATTEMPTS + [429] * 2
        assert (told[-1].body, told[-1].header("content-type")) == (RATE_LIMITED, "application/json")
        assert 1 <= int(told[-1].header("retry-after") or 0) <= 60
        assert proxy.ask(FORGED).status == 401
    assert proxy.ask(keyledger.demo_key, client=guesser).status == 200


# -- without Keyledger


def test_without_a_proof_nothing_passes(proxies: dict[str, Proxy], keyledger: Service, service: EchoService) -> None:
    """Keyledger without its database: its 503 reaches the client; the database back, requests pass again."""
    key = keyledger.demo_key
    with away(keyledger.conninfo):
        for proxy in proxies.values():
            eventually(partial(proxy.refuses, key), "the key cannot be proven any more")
        with nothing_passes(service):
            for proxy in proxies.values():
                got = proxy.ask(key)
                assert (got.status, got.header("content-type")) == (503, "application/json"), proxy
                assert b'"code":"UNAVAILABLE"' in got.body
                assert int(got.header("retry-after") or 0) >= 1
    all_pass_again(proxies, key)


def test_a_silent_keyledger_is_a_no(proxies: dict[str, Proxy], keyledger: Service, service: EchoService) -> None:
    """All workers stand still, their connections open: an error in the configured time, and nothing passes."""
    key = keyledger.demo_key
    workers = keyledger.workers()
    assert workers
    for worker in workers:
        worker.suspend()
    try:
        with nothing_passes(service), ThreadPoolExecutor(len(proxies)) as threads:
            assert set(threads.map(lambda proxy: proxy.ask(key).status, proxies.values())) <= NO_ANSWER
    finally:
        for worker in workers:
            worker.resume()
    all_pass_again(proxies, key)


def test_an_absent_keyledger_is_a_no(proxies: dict[str, Proxy], keyledger: Service, service: EchoService) -> None:
    """Stopped: an error, and nothing passes; started: requests pass again through the same proxies."""
    key = keyledger.demo_key
    keyledger.stop()
    try:
        with nothing_passes(service):
            for credential in (key, None, FORGED):
                assert {proxy.ask(credential).status for proxy in proxies.values()} <= NO_ANSWER
    finally:
        keyledger.start()
    all_pass_again(proxies, key)


def all_pass_again(proxies: dict[str, Proxy], key: str) -> None:
    """By themselves."""
    for name, proxy in proxies.items():
        eventually(partial(proxy.passes, key), f"{name} lets requests through again")
