"""Other services that check keys in their own processes: the examples, one per framework, served by granian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domain.api_key import RevocationReason
from tests.interfaces.conftest import Owner
from tests.kit.hosts import HostService, WebSocket, hosting
from tests.kit.http import Client
from tests.kit.http_answers import HOST, another_address
from tests.kit.http_server import Back, HttpServer, Key

EXAMPLES = ("starlette_reports", "litestar_reports")
REPORTS = "/api/reports"
LIVE = "/api/reports/live"
CAMPAIGNS = "/api/campaigns"  # the service's own route that needs the same scope
WORKERS = 2
ROUNDS = 25
FORBIDDEN = b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'


@pytest.fixture(scope="module", params=EXAMPLES)
def host(
    request: pytest.FixtureRequest, server: HttpServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostService]:
    """The example with two workers, on the database of the service."""
    log = tmp_path_factory.mktemp("host") / "log"
    with hosting(request.param, server.conninfo, log, workers=WORKERS) as running:
        yield running
    assert "Traceback" not in log.read_text(encoding="utf-8")


def revoked(back: Back) -> str:
    """The secret of a key that was revoked, in the process of the test."""
    key = back.key(back.account())
    revoke(back, key)
    return key.secret


def revoke(back: Back, key: Key) -> int:
    """Revokes the key; how many processes were told."""
    _, freshness = back.manage.keys.revoke(
        account_id=key.account_id, key_id=key.id, reason=RevocationReason.OTHER, note=None, by=back.origin()
    )
    return freshness.processes


def processes(server: HttpServer) -> int:
    """How many processes hold a lease on the database."""
    return server.rows("SELECT count(*) FROM serving.processes")[0][0]


def statuses(clients: list[Client], key: Key) -> set[int]:
    """What each of the clients is answered, each time from another address, so that none is limited."""
    lines = [{"X-Forwarded-For": another_address()} for _ in clients]
    answers = [
        client.request("GET", REPORTS, key=key.secret, headers=line)
        for client, line in zip(clients, lines, strict=True)
    ]
    return {answer.status for answer in answers}


def test_an_accepted_request_reaches_the_host_with_its_principal(
    server: HttpServer, host: HostService, owner: Owner
) -> None:
    """Key, account, environment and scopes are the key's; the answer is the host's own, with nothing added."""
    scoped = server.back.key(owner.key.account_id, scopes=["campaigns:read", "keys:read"])
    for key, scopes in ((owner.key, None), (scoped, ["campaigns:read", "keys:read"])):
        with host.client(key.secret) as client:
            answer = client.get(REPORTS)
        assert (answer.status, "x-request-id" in answer.headers) == (200, False)
        principal = {"key_id": key.id, "account_id": key.account_id, "environment": "live", "scopes": scopes}
        assert answer.json() == principal


REFUSED: list[Callable[[Back], str | None]] = [
    lambda _: None,
    lambda _: "nonsense",
    lambda _: "sk_live_" + "0" * 600,
    lambda _: f"sk_live_000000000_{'0' * 43}",
    revoked,
    lambda back: back.key(back.account(), scopes=["keys:read"]).secret,
    lambda back: back.key(back.account(), networks=["192.0.2.0/24"]).secret,
]


@pytest.mark.parametrize("credential", REFUSED)
def test_a_refusal_is_that_of_the_service(
    server: HttpServer, host: HostService, credential: Callable[[Back], str | None]
) -> None:
    """Status, headers and bytes of a refused request are those of the service's own route, and so is its access row."""
    key = credential(server.back)
    with server.client(key) as direct, host.strict_client(key) as client:
        expected, heard = direct.get(CAMPAIGNS), client.get(REPORTS)
    assert heard.told() == expected.told()
    query = (
        "SELECT outcome, status, accepted, key_id, client_ip IS NULL FROM usage.access_log WHERE request_id = %(id)s"
    )
    [row] = server.rows(query, {"id": heard.request_id})
    assert [row] == server.rows(query, {"id": expected.request_id})


def test_failed_attempts_are_limited_over_service_and_host_together(server: HttpServer, host: HostService) -> None:
    """Attempts at the service count at the host, in the same 429; a good key from the same network passes."""
    network = [("X-Forwarded-For", another_address())]
    good = server.back.key(server.back.account())
    with server.client() as direct, host.strict_client() as client, host.client(good.secret) as neighbour:
        statuses = {direct.get(CAMPAIGNS, key="nonsense", headers=network).status for _ in range(30)}
        heard = client.get(REPORTS, key="nonsense", headers=network)
        passed = neighbour.request("GET", REPORTS, headers=dict(network)).status
    assert (statuses, heard.status, passed) == ({401, 429}, 429, 200)
    assert heard.body == b'{"error":{"code":"RATE_LIMITED","message":"Too many failed attempts"}}'


def test_a_handler_may_ask_for_a_scope_itself(server: HttpServer, host: HostService, owner: Owner) -> None:
    """`require`: without the scope the answer is the service's own 403, and its row says why; with it the handler's."""
    reader = server.back.key(owner.key.account_id, scopes=["campaigns:read"])
    with server.client(reader.secret) as direct, host.strict_client(reader.secret) as client:
        expected, heard = direct.post(CAMPAIGNS), client.post(REPORTS)
    assert heard.told() == expected.told()
    assert (heard.status, heard.body) == (403, FORBIDDEN)
    [row] = server.rows(
        "SELECT method, endpoint, status, outcome, accepted FROM usage.access_log WHERE request_id = %(id)s",
        {"id": heard.request_id},
    )
    assert row == ("POST", REPORTS, 403, "insufficient_scope", False)
    with host.client(owner.key.secret) as client:
        assert client.post(REPORTS).status == 201


def test_a_key_revoked_elsewhere_is_refused_the_moment_the_revoke_returns(
    server: HttpServer, host: HostService
) -> None:
    """Keys warm in every worker, revoked by another process in turn with the test: each next request is a 401."""
    account = server.back.account()
    manager = server.back.key(account)
    serving = processes(server)
    assert serving >= WORKERS + 1
    with ExitStack() as stack:
        clients = [stack.enter_context(host.client()) for _ in range(2 * WORKERS)]
        service = stack.enter_context(server.client(manager.secret))
        for number in range(ROUNDS):
            key = server.back.key(account)
            assert statuses(clients, key) == {200}
            if number % 2:
                told = revoke(server.back, key)
            else:
                told = service.post(f"{key.path}/revoke").json["receipt"]["processes"]
            assert statuses(clients, key) == {401}
            assert told == serving


def test_use_at_the_host_counts(server: HttpServer, host: HostService, owner: Owner) -> None:
    """Requests and failures at the host are in the key's counts and in its access rows as those of the service."""
    key = server.back.key(owner.key.account_id)
    with host.client(key.secret) as client:
        assert [client.get(f"{REPORTS}?page=2").status for _ in range(3)] == [200] * 3
    revoke(server.back, key)
    with host.strict_client(key.secret) as client:
        client.get(REPORTS)
    view = owner.client.get(key.path).json
    assert (view["request_count"], view["failed_attempts"]) == (3, 1)
    assert view["last_used_at"] is not None
    rows = server.rows(
        "SELECT method, endpoint, status, outcome, client_ip FROM usage.access_log WHERE key_id = %(key)s"
        " ORDER BY occurred_at",
        {"key": key.id},
    )
    assert rows[:3] == [("GET", REPORTS, 200, "ok", HOST)] * 3
    assert rows[3][:4] == ("GET", REPORTS, 401, "revoked")


def test_paths_that_are_not_protected_are_the_hosts_alone(server: HttpServer, host: HostService, owner: Owner) -> None:
    """With a good key, a bad one or none: the host's own answer, no principal, no access row."""
    before = server.rows("SELECT count(*) FROM usage.access_log")
    for key in (owner.key.secret, "nonsense", None):
        with host.client(key) as client:
            answer = client.get("/health")
            assert (answer.status, answer.json()) == (200, {"keyledger": False})
            assert client.get("/nothing").status == 404
    assert server.rows("SELECT count(*) FROM usage.access_log") == before


def test_answers_to_a_key_in_its_grace_period_are_told_as_by_the_service(
    server: HttpServer, host: HostService, owner: Owner
) -> None:
    """`Deprecation` and `Sunset` of the service on the host's answers and refusals; successor and other keys: none."""
    key = server.back.key(owner.key.account_id, scopes=["campaigns:read"])
    names = ("deprecation", "sunset")
    with server.client(key.secret) as direct, host.client(key.secret) as client:
        assert client.get(REPORTS).status == 200
        successor = owner.client.post(f"{key.path}/rotate", {"grace_seconds": 3600}).json["key"]
        expected, heard = direct.get(CAMPAIGNS), client.get(REPORTS)
    assert (expected.status, heard.status) == (200, 200)
    told = [expected.header(name) for name in names]
    assert None not in told
    assert [heard.headers.get(name) for name in names] == told
    with server.client(key.secret) as direct, host.strict_client(key.secret) as client:
        expected, refused = direct.post(CAMPAIGNS), client.post(REPORTS)
    assert refused.told() == expected.told()
    assert [refused.header(name) for name in names] == told
    for plain in (successor, owner.key.secret):
        with host.client(plain) as client:
            answer = client.get(REPORTS)
        assert (answer.status, [answer.headers.get(name) for name in names]) == (200, [None, None])


@pytest.mark.parametrize(
    "spelling",
    ["//api/reports", "/api//reports", "/api/reports/", "/./api/reports", "/x/../api/reports", "/%61pi/reports"],
)
def test_no_other_spelling_of_a_protected_path_needs_no_key(host: HostService, spelling: str) -> None:
    """What a framework would take for the protected path is refused without a key."""
    with host.strict_client() as client:
        assert client.get(spelling).status == 401


def test_a_websocket_is_refused_before_it_is_accepted(server: HttpServer, host: HostService) -> None:
    """The handshake is answered as a request would be: the service's own bytes."""
    forbidden = server.back.key(server.back.account(), scopes=["keys:read"]).secret
    for key, status in ((None, 401), (revoked(server.back), 401), (forbidden, 403)):
        with server.client(key) as direct, WebSocket(host.port, LIVE, key=key) as socket:
            expected, refusal = direct.get(CAMPAIGNS), socket.refusal
        assert refusal is not None
        assert (refusal.status, refusal.body) == (status, expected.body)
        assert refusal.header("www-authenticate") == expected.header("www-authenticate")
        [row] = server.rows(
            "SELECT method, endpoint, status FROM usage.access_log WHERE request_id = %(id)s",
            {"id": refusal.request_id},
        )
        assert row == ("GET", LIVE, status)


def test_a_websocket_ends_with_its_key(server: HttpServer, host: HostService) -> None:
    """Messages pass while the key is accepted; the first one after the revoke closes the connection, 1008."""
    key = server.back.key(server.back.account())
    with WebSocket(host.port, LIVE, key=key.secret) as socket:
        for text in ("one", "two"):
            socket.say(text)
            assert socket.hear() == f"{key.id} {text}"
        revoke(server.back, key)
        socket.say("three")
        assert socket.hear() == 1008
    rows = server.rows("SELECT endpoint, status, outcome FROM usage.access_log WHERE key_id = %(key)s", {"key": key.id})
    assert rows == [(LIVE, 101, "ok")]


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("interface", ["asgi", "asginl"])
def test_a_host_opens_and_closes_with_lifespan_and_without(
    server: HttpServer, tmp_path: Path, example: str, interface: str
) -> None:
    """Before its first request with lifespan, by it without: it is a 200. A stop writes what is queued and leaves."""
    key = server.back.key(server.back.account())
    before = processes(server)
    settings = {"workers": WORKERS, "access_log_durability": "buffered"}
    with hosting(example, server.conninfo, tmp_path / "log", interface=interface, **settings) as host:
        assert processes(server) == before + (WORKERS if interface == "asgi" else 0)
        with host.client(key.secret) as client:
            assert client.get(REPORTS).status == 200
            assert processes(server) == before + (WORKERS if interface == "asgi" else 1)
            assert [client.get(REPORTS).status for _ in range(9)] == [200] * 9
    assert processes(server) == before
    assert server.rows("SELECT count(*) FROM usage.access_log WHERE key_id = %(key)s", {"key": key.id}) == [(10,)]
