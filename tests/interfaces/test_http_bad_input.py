"""Bad input: a clear 4xx in the error body, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.interfaces.conftest import Owner
from tests.kit.http_answers import another_address
from tests.kit.http_server import HttpServer

KEY = {"name": "x", "environment": "live"}
MALFORMED = b'{"error":{"code":"BAD_REQUEST","message":"The request body is not readable JSON"}}'
TWICE = b'{"error":{"code":"BAD_REQUEST","message":"The request body names a field twice"}}'


@pytest.fixture(autouse=True)
def unchanged(server: HttpServer, owner: Owner) -> Iterator[None]:
    """Whatever a test of this module sends, the ledger is where it was, and the owner's key works."""
    head = server.head()
    yield
    assert server.head() == head
    assert owner.client.get("/api/keys").status == 200


NAMES = [
    "", "   ", "\t\n", "x" * 101, "🔑" * 101, "a\0b", "\0", "a\nb", "a\tb", "\x1b[31m", "a\x7fb", "a\x85b", "a\x9bb",
    "a\u2028b", "a\u2029b", "a\u202eb", "\u200fa", "a\u061cb", "a\u2066b\u2069", "a\ue000b", "a\ufdd0b", "a\U0010ffffb",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name[:12]) for name in NAMES])
def test_a_name_has_to_be_printable_and_short(owner: Owner, name: str) -> None:
    """Control, direction-changing, private-use and no characters, blank and overlong names: 422 that names `name`."""
    client = owner.client
    for heard in (
        client.post("/api/keys", KEY | {"name": name}),
        client.patch(owner.key.path, {"name": name}),
        client.post("/api/campaigns", {"name": name}),
    ):
        assert heard.fields == ["name"]


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"environment": "production"}, "environment"),
    ({"environment": "LIVE"}, "environment"),
    ({"environment": None}, "environment"),
    ({"name": None}, "name"),
    ({"name": 1}, "name"),
    ({"name": ["x"]}, "name"),
    ({"colour": "red"}, "colour"),
    ({"id": "key_000000000"}, "id"),
    ({"account_id": "acc_0000000000000000"}, "account_id"),
    ({"key": "mine"}, "key"),
    ({"": 1}, ""),
    ({"x" * 1000: 1}, "x" * 200),
    ({"scopes": []}, "scopes"),
    ({"scopes": ["keys:everything"]}, "scopes"),
    ({"scopes": ["*"]}, "scopes"),
    ({"scopes": ["*:*"]}, "scopes"),
    ({"scopes": ["keys:read "]}, "scopes"),
    ({"scopes": ["KEYS:READ"]}, "scopes"),
    ({"scopes": ["keys:read\0"]}, "scopes"),
    ({"scopes": ["keys:read"] * 33}, "scopes"),
    ({"scopes": "keys:read"}, "scopes"),
    ({"scopes": {"keys:read": True}}, "scopes"),
    ({"scopes": ["keys:read", 1]}, "scopes[1]"),
    ({"scopes": [None]}, "scopes[0]"),
    ({"allowed_ips": []}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.1/24"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.0/33"]}, "allowed_ips"),
    ({"allowed_ips": ["2001:db8::/129"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.0/255.255.255.0"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.0/-1"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.0/"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.256"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.01"]}, "allowed_ips"),
    ({"allowed_ips": ["office"]}, "allowed_ips"),
    ({"allowed_ips": [""]}, "allowed_ips"),
    ({"allowed_ips": ["fe80::1%eth0"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.0/24", "\u0661.\u0662.\u0663.\u0664"]}, "allowed_ips"),
    ({"allowed_ips": ["192.0.2.1"] * 51}, "allowed_ips"),
    ({"allowed_ips": "192.0.2.0/24"}, "allowed_ips"),
    ({"allowed_ips": [3221225985]}, "allowed_ips[0]"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at"),
    ({"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
    ({"expires_at": "2031-01-01T00:00:00"}, "expires_at"),
    ({"expires_at": "2031-01-01"}, "expires_at"),
    ({"expires_at": "2031-02-30T00:00:00Z"}, "expires_at"),
    ({"expires_at": "10000-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "tomorrow"}, "expires_at"),
    ({"expires_at": ""}, "expires_at"),
    ({"expires_at": 1924992000}, "expires_at"),
]  # fmt: skip


@pytest.mark.parametrize(("differs", "field"), FIELDS, ids=[json.dumps(differs)[:50] for differs, _ in FIELDS])
def test_a_faulty_field_of_a_new_key_is_named(owner: Owner, differs: dict[str, Any], field: str) -> None:
    """A value that cannot be, a wrong type, a field that is not there: 422 with the place in the client's own JSON."""
    assert owner.client.post("/api/keys", KEY | differs).fields == [field]


@pytest.mark.parametrize("missing", ["name", "environment"])
def test_a_missing_field_is_named(owner: Owner, missing: str) -> None:
    """Both required fields are asked for."""
    heard = owner.client.post("/api/keys", {field: value for field, value in KEY.items() if field != missing})
    assert heard.fields == [missing]


COMMANDS: list[tuple[str, dict[str, Any], str]] = [
    ("PATCH {key}", {"name": None}, "name"),
    ("PATCH {key}", {"environment": "dev"}, "environment"),
    ("PATCH {key}", {"expires_at": None}, "expires_at"),
    ("PATCH {key}", {"name": "Good", "scopes": []}, "scopes"),
    ("PATCH {key}", {"name": "Good", "allowed_ips": ["192.0.2.1/24"]}, "allowed_ips"),
    ("POST {key}/rotate", {"grace_seconds": -1}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_seconds": 90 * 86400 + 1}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_seconds": 2**70}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_seconds": 1.5}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_seconds": "60"}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_seconds": True}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_seconds": None}, "grace_seconds"),
    ("POST {key}/rotate", {"grace_starts": "never"}, "grace_starts"),
    ("POST {key}/rotate", {"grace": 1}, "grace"),
    ("POST {key}/revoke", {"reason": "bored"}, "reason"),
    ("POST {key}/revoke", {"reason": None}, "reason"),
    ("POST {key}/revoke", {"note": "x" * 501}, "note"),
    ("POST {key}/revoke", {"note": 1}, "note"),
    ("POST {key}/revoke", {"because": "x"}, "because"),
    ("POST /api/campaigns", {"name": "x", "environment": "dev"}, "environment"),
    ("POST /api/campaigns", {"name": None}, "name"),
    ("POST /api/verify", {"key": None}, "key"),
    ("POST /api/verify", {"key": "x", "ip": "here"}, "ip"),
    ("POST /api/verify", {"key": "x", "scopes": ["everything"]}, "scopes"),
    ("POST /api/verify", {"key": "x", "environment": "production"}, "environment"),
]


@pytest.mark.parametrize(("call", "body", "field"), COMMANDS, ids=[f"{call} {body}"[:60] for call, body, _ in COMMANDS])
def test_a_faulty_field_of_a_command_is_named(owner: Owner, call: str, body: dict[str, Any], field: str) -> None:
    """As for a new key; a command with one faulty field does nothing of what its other fields ask."""
    method, _, path = call.partition(" ")
    assert owner.client.call(method, path.format(key=owner.key.path), body).fields == [field]


UNREADABLE = [
    b"{", b"}", b"name=x", b'{"name":"x","environment":"live"', b'{"name":"x","environment":"live"} x',
    b"{'name':'x','environment':'live'}", b'{"name":"x","environment":"live",}', b"\xff\xfe", b"\0",
    b'{"name":"\xff","environment":"live"}', b'{"name":"\xed\xa0\x80","environment":"live"}',
    b'{"name":"\\ud800","environment":"live"}', b'{"name":"a\x00b","environment":"live"}', b'{"\xff":1}',
    b'\xef\xbb\xbf{"name":"x","environment":"live"}', '{"name":"x","environment":"live"}'.encode("utf-16"),
    b'{"name":"x","environment":"live","expires_at":NaN}',
]  # fmt: skip
BODY_ROUTES = ["POST /api/keys", "PATCH {key}", "POST {key}/rotate", "POST {key}/revoke", "POST /api/campaigns",
               "POST /api/verify"]  # fmt: skip


@pytest.mark.parametrize("raw", UNREADABLE, ids=[repr(raw)[:40] for raw in UNREADABLE])
def test_what_is_not_json_is_unreadable(owner: Owner, raw: bytes) -> None:
    """Broken JSON and broken UTF-8: 400; or 422 on a route where a field that is not its own comes before the break."""
    for route in BODY_ROUTES:
        method, _, path = route.partition(" ")
        heard = owner.client.call(method, path.format(key=owner.key.path), body=raw)
        assert heard.body == MALFORMED or (route != BODY_ROUTES[0] and heard.status == 422), route


DEEP = [b"[" * 30_000, b'{"a":' * 10_000, b'{"name":' + b"[" * 30_000 + b"]" * 30_000 + b"}"]
NO_OBJECT = [b"[]", b"1", b'"x"', b"true", b"1e999", b"9" * 5000, b'[{"name":"x","environment":"live"}]']


@pytest.mark.parametrize("raw", [*NO_OBJECT, *DEEP], ids=lambda raw: repr(raw[:12]))
def test_what_is_no_object_or_bottomless_is_refused(owner: Owner, raw: bytes) -> None:
    """Other JSON than an object, and nesting without end: 400 or 422."""
    for route in BODY_ROUTES:
        method, _, path = route.partition(" ")
        assert owner.client.call(method, path.format(key=owner.key.path), body=raw).status in {400, 422}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"a","environment":"dev","name":"b"}',
        b'{"name":"a","environment":"dev","environment":"dev"}',
        b'{"name":"a","environment":"dev","n\\u0061me":"b"}',
    ],
)
def test_a_field_named_twice_is_refused(owner: Owner, raw: bytes) -> None:
    """Two readers of such a body may take different values (RFC 7493 section 2.3): 400, escapes notwithstanding."""
    heard = owner.client.call("POST", "/api/keys", body=raw)
    assert (heard.status, heard.body) == (400, TWICE)


@pytest.mark.parametrize("route", ["POST /api/keys", "PATCH {key}", "POST /api/campaigns", "POST /api/verify"])
def test_a_body_that_is_needed_is_asked_for(owner: Owner, route: str) -> None:
    """No body, or an empty one: 400 that says so."""
    method, _, path = route.partition(" ")
    for body in (None, b""):
        heard = owner.client.call(method, path.format(key=owner.key.path), body=body)
        assert heard.body == b'{"error":{"code":"BAD_REQUEST","message":"The request needs a JSON body"}}'


SECRETS = {
    "ses_7Hq2mB9xT_0123456789ABCDEFGHIJKLMNOPQRSTUVabcdefghijk": "ses_7Hq2mB9xT…",
    "whsec_MfKQ9r8GKYqr+TwjUPD8ILPZ/Io2LaLaSw2xVhQK0c0=": "whsec_…",
}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_refusal_repeats_no_secret(owner: Owner, secret: str) -> None:
    """A field that is called like one is named by its prefix."""
    heard = owner.client.post("/api/keys", {**KEY, secret: "x"})
    assert (heard.status, heard.fields) == (422, [SECRETS[secret]])
    assert secret.encode() not in heard.body


NO_SECRET = "must not hold a key or secret"


def test_a_name_or_note_with_a_credential_is_refused(owner: Owner) -> None:
    """A new name, another one, a note, a description: 422 that repeats nothing of it."""
    client, key = owner.client, owner.key
    webhook = {"url": "https://hooks.acme.example/", "events": ["key.*"]}
    for text in (key.secret, f"like {key.secret[:40]}", *SECRETS):
        for field, heard in (
            ("name", client.post("/api/keys", KEY | {"name": text})),
            ("name", client.patch(key.path, {"name": text})),
            ("name", client.post("/api/campaigns", {"name": text})),
            ("note", client.post(f"{key.path}/revoke", {"note": text})),
            ("description", client.post("/api/webhooks", webhook | {"description": text})),
        ):
            assert heard.status == 422
            assert heard.json["error"]["details"] == [{"field": field, "message": NO_SECRET}]
            assert text[-8:].encode() not in heard.body


def test_a_large_body_is_refused_unread(server: HttpServer, owner: Owner) -> None:
    """A megabyte, announced or in chunks: 413 before the rest is sent."""
    head = f"POST /api/keys HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {owner.key.secret}\r\n"
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    for told in (
        [f"{head}Content-Length: 1000000\r\n\r\n".encode()],
        [f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *[chunk] * 5],
    ):
        [heard] = server.hear(*told)
        assert heard.status == 413
        assert heard.body == b'{"error":{"code":"PAYLOAD_TOO_LARGE","message":"The request body is too large"}}'


def test_the_largest_body_is_read(owner: Owner) -> None:
    """64 KiB of JSON pass to the checks of its fields; one byte more does not."""
    start, end = b'{"environment":"live","name":"', b'"}'
    filled = start + b"x" * (65_536 - len(start) - len(end)) + end
    assert owner.client.call("POST", "/api/keys", body=filled).fields == ["name"]
    assert owner.client.call("POST", "/api/keys", body=filled[:-2] + b"x" + end).status == 413


PATHS = [
    "/", "/api", "/api/", "/api/key", "/api/keys/x/y/z", "/api/keys/%2e%2e/%2e%2e/etc/passwd",
    "/api/keys/../../etc/passwd",
    "/..%2f..%2fetc%2fpasswd", "/%00", "/%ff%fe", "/api/keys%00", "/api/keys%7f", "/API/KEYS",
    "/health", "/health/live/x", "/schema/x/y", "/metrics/x", "/favicon.ico",
    "/api/campaigns/x/y", "/" + "a" * 10_000, "/api/keys/" + "/".join("a" * 100), "/api/keys;x=1", "/authforward",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=[path[:40] for path in PATHS])
def test_an_unknown_path_is_not_found(owner: Owner, path: str) -> None:
    """404 in the error body, with a key and without, whatever the method."""
    not_found = b'{"error":{"code":"NOT_FOUND","message":"No such path"}}'
    for method in ("GET", "POST", "DELETE"):
        heard = owner.client.call(method, path)
        assert (heard.status, heard.body) == (404, not_found), method


@pytest.mark.parametrize("path", ["swagger", "redoc", "elements", "openapi.yaml", "openapi.yml", "x.json", "%00"])
def test_the_description_has_one_form(owner: Owner, path: str) -> None:
    """Below `/schema` there is the JSON document and no page of the framework's."""
    heard = owner.client.get(f"/schema/{path}")
    assert (heard.status, heard.body) == (404, b'{"error":{"code":"NOT_FOUND","message":"No such path"}}')


METHODS = [
    ("/api/keys", {"GET", "POST"}),
    ("{key}", {"GET", "PATCH"}),
    ("{key}/rotate", {"POST"}),
    ("{key}/revoke", {"POST"}),
    ("{key}/disable", {"POST"}),
    ("{key}/enable", {"POST"}),
    ("{key}/events", {"GET"}),
    ("/api/campaigns", {"GET", "POST"}),
    ("/api/campaigns/cmp_0000000000000000", {"GET"}),
    ("/api/verify", {"POST"}),
    ("/health/live", {"GET"}),
    ("/health/ready", {"GET"}),
    ("/schema", {"GET"}),
]


@pytest.mark.parametrize(("path", "taken"), METHODS, ids=[path for path, _ in METHODS])
def test_another_method_is_refused_with_those_that_are_taken(owner: Owner, path: str, taken: set[str]) -> None:
    """405 with Allow (RFC 9110 section 15.5.6), to known, unknown and made-up methods alike."""
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "get", "A" * 300} - taken:
        heard = owner.client.call(method, path.format(key=owner.key.path))
        assert heard.status == 405, method
        allowed = (heard.header("allow") or "").split(", ")
        assert set(allowed) - {"OPTIONS", "HEAD"} == taken
        assert allowed.count("HEAD") == allowed.count("GET")
        asked = owner.client.call("OPTIONS", path.format(key=owner.key.path))
        assert asked.header("allow") == heard.header("allow")


QUERIES = {
    "environment": ["NULL", "null", "None", "LIVE", ""],
    "status": ["NULL", "null", "Active", ""],
    "limit": ["1e1", "10.0", "0x10", "ten", "null", "", " 1", "1_0", "\u0661"],
    "from": ["2026", "-5", "1e9", "1795760758.5", "null", "NULL", "nan", "inf", "2026-03-02", ""],
    "to": ["2026", "99999999999999999999", "null"],
    "interval": ["null", "", "Day"],
    "format": ["null", "NULL", "CSV"],
}
QUERY_ROUTES = {
    "/api/keys": ["environment", "status", "limit"],
    "/api/campaigns": ["limit"],
    "/api/webhooks": ["limit"],
    "{key}/events": ["limit"],
    "{key}/usage": ["from", "to", "interval"],
    "/api/access-logs": ["from", "to", "format", "limit"],
}
MISREAD = [(path, name, text) for path, names in QUERY_ROUTES.items() for name in names for text in QUERIES[name]]


@pytest.mark.parametrize(("path", "name", "text"), MISREAD, ids=[" ".join(each) for each in MISREAD])
def test_what_a_query_says_is_taken_as_it_is_or_refused(owner: Owner, path: str, name: str, text: str) -> None:
    """No number for a time, no `null` for a parameter that is not there, nothing else than digits for a number."""
    heard = owner.client.get(f"{path.format(key=owner.key.path)}?{name}={quote(text)}")
    assert heard.fields == [name]


def test_each_faulty_parameter_of_a_query_is_named(owner: Owner) -> None:
    """Also one that is given twice, and well the second time."""
    heard = owner.client.get("/api/access-logs?from=2026&from=2026-03-02T00:00:00Z&limit=1e1&status=null")
    assert heard.fields == ["from", "limit"]


def test_every_parameter_that_is_no_text_is_among_these(owner: Owner) -> None:
    """As the document of the interface lists them."""
    paths = owner.client.get("/schema").json["paths"]
    told = {
        (path, parameter["name"])
        for path, item in paths.items()
        for parameter in item.get("get", {}).get("parameters", [])
        if parameter["in"] == "query" and not _is_text(parameter["schema"])
    }
    assert {(path.replace("/api/keys/{key_id}", "{key}"), name) for path, name in told} <= {
        (path, name) for path, name, _ in MISREAD
    } | {("/api/webhooks/{webhook_id}/deliveries", "limit")}


def _is_text(schema: dict[str, Any]) -> bool:
    kinds = [each for each in schema.get("oneOf", [schema]) if each.get("type") != "null"]
    return all(each.get("type") == "string" and "format" not in each and "enum" not in each for each in kinds)


STRANGE_IDS = [
    "..", "%2e%2e", "..%2f..", "%2e%2e%5c", "key_", "KEY_000000000", "key_00000000", "key_0000000000", "key_00000000-",
    "key_000000000%00", "%00key_000000000", "key_00000000%C3%A9",
    "key_%D9%A0%D9%A1%D9%A2%D9%A3%D9%A4%D9%A5%D9%A6%D9%A7%D9%A8",
    "acc_0000000000000000", "cmp_0000000000000000", "*", "'%20OR%201=1", "%25s", "{}", "null", "0", "-1",
    "%F0%9F%94%91", "key_000000000%20", "%ff", "k" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("strange", STRANGE_IDS, ids=[strange[:30] for strange in STRANGE_IDS])
def test_a_strange_id_names_nothing(owner: Owner, strange: str) -> None:
    """Ids of another kind, length or alphabet, injections and traversals: 404 for keys, 403 for campaigns."""
    key = owner.client.get(f"/api/keys/{strange}")
    events = owner.client.get(f"/api/keys/{strange}/events")
    campaign = owner.client.get(f"/api/campaigns/{strange}")
    assert {key.status, events.status} == {404}
    assert campaign.status == (404 if "%2f" in strange else 403)


def test_an_unknown_parameter_does_no_harm(owner: Owner) -> None:
    """Query parameters that no route knows, any number and size, are passed over; the known ones still hold."""
    for query in ("x=1", "x", "=", "&&&", "%00=%00", "x=" + "a" * 8000, "&".join(f"p{n}=1" for n in range(500))):
        assert owner.client.get(f"/api/keys?{query}&limit=1").status == 200


def test_a_client_cannot_name_its_request(owner: Owner) -> None:
    """A request id that the client sends is not taken for ours; each request has its own."""
    sent = [("X-Request-Id", "req_0000000000000000000000"), ("X-Forwarded-For", another_address())]
    ids = {owner.client.get("/api/campaigns", headers=sent).request_id for _ in range(3)}
    assert len(ids) == 3
    assert "req_0000000000000000000000" not in ids
