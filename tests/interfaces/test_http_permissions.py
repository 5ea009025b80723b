"""What a good key may do: its account's things alone, by its scopes, its plan and its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from domain.access import Plan
from tests.interfaces.conftest import Owner
from tests.kit.http_server import HttpServer, Key, serving

FORBIDDEN = b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'
UNKNOWN_KEY = b'{"error":{"code":"NOT_FOUND","message":"No such API key"}}'
NOBODY = "/api/keys/key_000000000"
NO_WEBHOOK = "/api/webhooks/whe_0000000000000000"

# Each protected route with the scope that it needs, and what a caller is told who has it, of a thing that is not there
# or a body that is not right: nothing is changed by asking.
ROUTES = [
    ("GET", "/api/keys", ..., "keys:read", 200),
    ("POST", "/api/keys", {}, "keys:write", 422),
    ("GET", NOBODY, ..., "keys:read", 404),
    ("PATCH", NOBODY, {}, "keys:write", 404),
    ("POST", f"{NOBODY}/rotate", ..., "keys:write", 404),
    ("POST", f"{NOBODY}/rotate/extend", ..., "keys:write", 404),
    ("POST", f"{NOBODY}/revoke", ..., "keys:write", 404),
    ("POST", f"{NOBODY}/disable", ..., "keys:write", 404),
    ("POST", f"{NOBODY}/enable", ..., "keys:write", 404),
    ("GET", f"{NOBODY}/events", ..., "keys:read", 404),
    ("GET", f"{NOBODY}/usage", ..., "keys:read", 404),
    ("GET", "/api/access-logs", ..., "keys:read", 200),
    ("GET", "/api/campaigns", ..., "campaigns:read", 200),
    ("POST", "/api/campaigns", {}, "campaigns:write", 422),
    ("GET", "/api/campaigns/cmp_0000000000000000", ..., "campaigns:read", 403),
    ("GET", "/api/notifications", ..., "keys:write", 200),
    ("PATCH", "/api/notifications", {"notices": {"none": False}}, "keys:write", 422),
    ("GET", "/api/account", ..., "keys:read", 200),
    ("PATCH", "/api/account", {"rotation_due_days": 0}, "keys:write", 422),
    ("GET", "/api/webhooks", ..., "webhooks:read", 200),
    ("POST", "/api/webhooks", {}, "webhooks:write", 422),
    ("GET", NO_WEBHOOK, ..., "webhooks:read", 404),
    ("PATCH", NO_WEBHOOK, {}, "webhooks:write", 404),
    ("DELETE", NO_WEBHOOK, ..., "webhooks:write", 404),
    ("POST", f"{NO_WEBHOOK}/rotate-secret", ..., "webhooks:write", 404),
    ("GET", f"{NO_WEBHOOK}/deliveries", ..., "webhooks:read", 404),
    ("POST", f"{NO_WEBHOOK}/deliveries/msg_0000000000000000000000/retry", ..., "webhooks:write", 404),
    ("POST", f"{NO_WEBHOOK}/test", ..., "webhooks:write", 404),
    ("POST", "/api/verify", {}, "keys:verify", 422),
]
GRANTS = [
    ["keys:read"],
    ["keys:write"],
    ["keys:verify"],
    ["keys:*"],
    ["campaigns:read"],
    ["campaigns:write"],
    ["campaigns:*"],
    ["keys:read", "campaigns:write"],
    ["audit:read", "invites:*", "usage:read", "webhooks:*", "interviews:*"],
    None,
]


@pytest.mark.parametrize("granted", GRANTS, ids=lambda granted: "+".join(granted or ["all"]))
def test_a_scope_opens_its_own_routes_alone(server: HttpServer, owner: Owner, granted: list[str] | None) -> None:
    """Every route, every grant: without the route's scope a 403 that names it, with it the route's own answer."""
    key = server.back.key(owner.key.account_id, scopes=granted)
    head = server.head()
    for method, path, body, scope, status in ROUTES:
        heard = owner.client.call(method, path, body, key=key.secret)
        challenge = heard.header("www-authenticate")
        if granted is None or scope in granted or f"{scope.partition(':')[0]}:*" in granted:
            assert (heard.status, challenge) == (status, None), (method, path)
        else:
            named = f'Bearer realm="keyledger", error="insufficient_scope", scope="{scope}"'
            assert (heard.status, challenge, heard.body) == (403, named, FORBIDDEN), (method, path)
    assert server.head() == head


def test_no_protected_route_is_missing_from_the_table(owner: Owner) -> None:
    """The table above has every operation that `/schema` says needs a key."""
    described = owner.client.get("/schema").json["paths"]
    protected = {
        (method.upper(), path)
        for path, operations in described.items()
        for method, operation in operations.items()
        if operation.get("security")
    }

    def template(path: str) -> str:
        named = path.replace(NOBODY, "/api/keys/{key_id}")
        named = named.replace(NO_WEBHOOK, "/api/webhooks/{webhook_id}").replace(
            "msg_0000000000000000000000", "{delivery_id}"
        )
        return named.replace("/api/campaigns/cmp_0000000000000000", "/api/campaigns/{campaign_id}")

    assert {(method, template(path)) for method, path, *_ in ROUTES} == protected


def test_another_accounts_key_is_like_one_that_never_was(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """Every route of a key: a stranger's id, an unknown and a malformed one get the same 404, and nothing changes."""
    head = server.head()
    for method, path, body, *_ in ROUTES:
        if NOBODY not in path:
            continue
        for key_id in (stranger.key.id, "key_zzzzzzzzz", "key_", "x", "key_00000000%2F", "%00", "%ff", "k" * 10_000):
            asked = {"name": "Mine now"} if body == {} else body
            heard = owner.client.call(method, path.replace("key_000000000", key_id), asked)
            if "%2F" in key_id:  # two path segments: no route has them
                assert heard.status == 404
            else:
                assert (heard.status, heard.body) == (404, UNKNOWN_KEY), (method, path, key_id[:20])
    assert server.head() == head
    assert stranger.client.get("/api/keys").status == 200


def test_lists_hold_the_callers_account_alone(owner: Owner, stranger: Owner) -> None:
    """Neither keys nor campaigns of another account are listed, in any environment or status."""
    stranger.client.post("/api/campaigns", {"name": "Theirs"})
    assert [key["id"] for key in owner.client.get("/api/keys").json["data"]] == [owner.key.id]
    assert owner.client.get("/api/campaigns").json["data"] == []


NETWORKS_ASKED: list[tuple[str, str, Any]] = [
    ("POST", "/api/keys", {"name": "x", "environment": "live", "allowed_ips": ["192.0.2.0/24"]}),
    ("PATCH", "{own}", {"allowed_ips": ["192.0.2.0/24"]}),
    ("PATCH", "{own}", {"name": "Renamed", "allowed_ips": ["192.0.2.0/24"]}),
]


@pytest.mark.parametrize("plan", Plan)
@pytest.mark.parametrize(("method", "path", "body"), NETWORKS_ASKED, ids=["create", "change", "rename as well"])
def test_networks_are_a_feature_of_the_largest_plan(
    server: HttpServer, plan: Plan, method: str, path: str, body: Any
) -> None:
    """`allowed_ips` on a plan without networks: 403 without a challenge, and nothing of the request is done."""
    key = server.back.key(server.back.account(plan))
    head = server.head()
    with server.client(key.secret) as client:
        heard = client.call(method, path.format(own=key.path), body)
        if plan is Plan.SCALE:
            assert heard.status in {200, 201}
            return
        assert (heard.status, heard.body, heard.header("www-authenticate")) == (403, FORBIDDEN, None)
        assert server.head() == head
        assert client.patch(key.path, {"allowed_ips": None}).status == 200


@pytest.fixture
def fenced(server: HttpServer, owner: Owner) -> Key:
    """A key for 192.0.2.0/24 and 2001:db8::/32."""
    return server.back.key(owner.key.account_id, networks=["192.0.2.0/24", "2001:db8::/32"])


HOPS = [
    ("192.0.2.7", 200),
    ("2001:db8::1", 200),
    ("::ffff:192.0.2.7", 200),
    ("203.0.113.9, 192.0.2.7", 200),  # what a client writes stands left of what the proxy adds
    ("192.0.2.7, 203.0.113.9", 403),
    ("192.0.2.7, 127.0.0.1", 200),  # a trusted hop is passed over
    ("192.0.3.7", 403),
    ("2001:db9::1", 403),
    ("127.0.0.1", 403),
    ("nonsense", 403),
    ("192.0.2.7, nonsense", 403),
    ("192.0.2.7:443", 200),
    ("[2001:db8::1]", 200),
    ("[2001:db8::1]:443, 127.0.0.1:80", 200),
    ("203.0.113.7:443", 403),
    ("", 403),
]


@pytest.mark.parametrize(("hops", "status"), HOPS, ids=[repr(hops) for hops, _ in HOPS])
def test_a_key_is_accepted_from_its_networks_alone(owner: Owner, fenced: Key, hops: str, status: int) -> None:
    """The caller's address is the rightmost untrusted hop; outside the key's networks: 403 without a challenge."""
    heard = owner.client.get("/api/campaigns", key=fenced.secret, headers=[("X-Forwarded-For", hops)])
    assert (heard.status, heard.header("www-authenticate")) == (status, None)
    assert heard.status == 200 or heard.body == FORBIDDEN


@pytest.mark.parametrize(
    "hop", ["unknown", "_hidden", "nonsense", "127.0.0.1:x", "[127.0.0.1]:80", "[::1", "127.0.0.1:"]
)
def test_behind_a_hop_that_cannot_be_read_nobody_is_in_a_network(server: HttpServer, owner: Owner, hop: str) -> None:
    """The networks of a key may hold the proxy itself: 403 all the same, at every door; a key without any passes."""
    local = server.back.key(owner.key.account_id, networks=["127.0.0.0/8", "::/0"])
    for path in ("/api/campaigns", "/auth/forward", "/auth/forward"):
        for hops in (hop, f"127.0.0.1, {hop}", f"{hop}, 127.0.0.1"):
            here = [("X-Forwarded-For", hops)]
            refused = owner.client.get(path, key=local.secret, headers=here)
            assert (refused.status, refused.body) == (403, FORBIDDEN)
            assert owner.client.get(path, headers=here).status == 200
        assert owner.client.get(path, key=local.secret, headers=[("X-Forwarded-For", "")]).status == 200
    query = "SELECT outcome, client_ip FROM usage.access_log WHERE request_id = %(id)s"
    [row] = server.rows(query, {"id": refused.request_id})
    assert row == ("forbidden_network", None)


@pytest.mark.parametrize("path", ["/api/campaigns", "/auth/forward"])
def test_behind_a_hop_that_cannot_be_read_the_proxys_attempts_are_limited(
    conninfo: str, tmp_path: Path, path: str
) -> None:
    """Whatever it is that cannot be read, one limit; the proxy's clients that can be told apart have their own."""
    with serving(conninfo, tmp_path / "log", failed_attempts_per_minute="1") as own, own.client("guess") as client:
        hops = ("unknown", "nonsense", "203.0.113.5", "203.0.113.5:4711", "")
        statuses = [client.get(path, headers=[("X-Forwarded-For", each)]).status for each in hops]
        assert statuses == [401, 429, 401, 429, 429]


def test_a_change_of_networks_holds_when_it_is_answered(owner: Owner, fenced: Key) -> None:
    """The request after the PATCH is judged by the new networks."""
    here = [("X-Forwarded-For", "198.51.100.1")]
    for networks, status in ((["198.51.100.1"], 200), (["198.51.100.2"], 403), (None, 200)):
        assert owner.client.patch(fenced.path, {"allowed_ips": networks}).status == 200
        assert owner.client.get("/api/campaigns", key=fenced.secret, headers=here).status == status


@pytest.mark.parametrize("trusted", ["", "203.0.113.0/24"], ids=["no proxies", "other proxies"])
def test_nobody_but_a_trusted_proxy_speaks_for_a_client(conninfo: str, tmp_path_factory: Any, trusted: str) -> None:
    """Of whoever is no trusted proxy `X-Forwarded-For` is a header like any other: the peer is the client."""
    with serving(conninfo, tmp_path_factory.mktemp("own") / "log", trusted_proxies=trusted) as own:
        account = own.back.account()
        fenced = own.back.key(account, networks=["192.0.2.0/24"]).secret
        local = own.back.key(account, networks=["127.0.0.0/8"]).secret
        with own.client() as client:
            for hops in ("192.0.2.7", "127.0.0.1", "nonsense"):
                headers = [("X-Forwarded-For", hops), ("Forwarded", f"for={hops}"), ("X-Real-IP", hops)]
                assert client.get("/api/campaigns", key=fenced, headers=headers).status == 403
                assert client.get("/api/campaigns", key=local, headers=headers).status == 200
        addresses = own.rows("SELECT DISTINCT client_ip FROM usage.access_log")
        assert addresses == [("127.0.0.1",)]
