"""Every error, from every layer of the HTTP edge, has the mandated bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, cast

import msgspec
import pytest
import structlog
from litestar import Litestar, Request, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.testing import TestClient

from domain.errors import (
    ConflictError,
    FieldProblem,
    ForbiddenError,
    InvalidError,
    KeyledgerError,
    MalformedError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)
from interfaces.http.body import JsonRequest, decode
from interfaces.http.errors import (
    DETAILS_MAX,
    EXCEPTION_HANDLERS,
    INTERNAL_ERROR,
    KINDS,
    UNAUTHORIZED,
    UNAUTHORIZED_TOKEN,
    render,
)
from interfaces.http.request import RequestRecord, keep_record

BODY_BYTES_MAX = 64 * 1024
TOKEN = {"Authorization": "Bearer sk_live_000000000_nonsense"}
INVALID_KEY = b'{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}'
UNREADABLE = b'{"error":{"code":"BAD_REQUEST","message":"The request body is not readable JSON"}}'
TOO_LARGE = b'{"error":{"code":"PAYLOAD_TOO_LARGE","message":"The request body is too large"}}'
OPAQUE = b'{"error":{"code":"INTERNAL_ERROR","message":"Internal server error"}}'


class Network(msgspec.Struct, forbid_unknown_fields=True):
    """A nested object."""

    cidr: str


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    """A body with a field of each sort."""

    name: Annotated[str, msgspec.Meta(max_length=100)]
    scopes: list[str] | None = None
    grace_seconds: int = 0
    network: Network | None = None
    limits: dict[str, int] | None = None


@post("/things")
async def make_thing(data: JSONBody[Thing]) -> dict[str, str]:
    return {"name": data.name}


@post("/things/{thing_id:str}/touch")
async def touch_thing(thing_id: FromPath[str], data: JSONBody[Thing | None] = None) -> dict[str, Any]:
    return {"id": thing_id, "name": data.name if data else None}


@get("/things")
async def list_things(
    status: FromQuery[str],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 50,
    from_: Annotated[int | None, QueryParameter(name="from")] = None,
) -> dict[str, Any]:
    return {"status": status, "limit": limit, "from": from_}


RAISED: dict[str, Exception] = {
    "unauthenticated": UnauthenticatedError(context={"reason": "revoked"}),
    "invite": UnauthenticatedError("Invalid invite token"),
    "forbidden": ForbiddenError(),
    "scope": ForbiddenError(scope="keys:write"),
    "unknown": NotFoundError("No such key"),
    "conflict": ConflictError("The key is revoked"),
    "limited": RateLimitedError(timedelta(seconds=12, milliseconds=1)),
    "unavailable": UnavailableError("The ledger cannot be reached", retry_after=timedelta(milliseconds=5)),
    "bug": RuntimeError("secret detail of a bug"),
}


@get("/raise/{name:str}")
async def raise_named(name: FromPath[str]) -> None:
    raise RAISED[name]


@get("/unencodable")
async def unencodable() -> dict[str, object]:
    return {"x": object()}


def build_app() -> Litestar:
    """The application as the composition root builds it, over routes that fail in every way."""
    return Litestar(
        [make_thing, touch_thing, list_things, raise_named, unencodable],
        exception_handlers=EXCEPTION_HANDLERS,
        request_class=JsonRequest,
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
        openapi_config=None,
    )


@dataclass(frozen=True)
class Heard:
    """What came back over ASGI; header names are lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def call(  # noqa: PLR0913 - a request has so many parts
    method: str,
    path: str,
    *,
    chunks: Iterable[bytes] = (b"",),
    headers: dict[str, str] | None = None,
    ends: bool = True,
    goes: bool = True,
    judge_again: Callable[[], Awaitable[None]] | None = None,
) -> Heard:
    """Speak raw ASGI: chunked without a Content-Length.

    Without `ends` the client goes away after its chunks; without `goes` it stays and sends nothing more. With
    `judge_again` the route is as one behind the gate.
    """
    parts = list(chunks)
    headers = headers or {}
    if any(parts) and "Content-Length" not in headers:
        headers = headers | {"Transfer-Encoding": "chunked"}
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": not ends or n < len(parts) - 1}
        for n, part in enumerate(parts)
    ]
    messages += [{"type": "http.disconnect"}] if goes else []
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    if judge_again is not None:
        keep_record(cast("Any", scope), RequestRecord("req_1", method, None, None, None, judge_again=judge_again))
    app: Any = build_app()
    asyncio.run(app(scope, receive, send))
    return Heard(sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:]))


def post_json(raw: bytes, path: str = "/things") -> Heard:
    return call("POST", path, chunks=[raw], headers={"Content-Type": "application/json"})


@pytest.fixture
def client() -> Iterator[TestClient[Litestar]]:
    with TestClient(build_app()) as client:
        yield client


def validation(*problems: tuple[str, str]) -> bytes:
    details = ",".join(f'{{"field":"{field}","message":"{message}"}}' for field, message in problems)
    head = '{"error":{"code":"VALIDATION_FAILED","message":"The request is not valid","details":['
    return f"{head}{details}]}}}}".encode()


KEY_ERRORS = [
    ("unauthenticated", 401, INVALID_KEY),
    ("invite", 401, b'{"error":{"code":"UNAUTHORIZED","message":"Invalid invite token"}}'),
    ("forbidden", 403, b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'),
    ("scope", 403, b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'),
    ("unknown", 404, b'{"error":{"code":"NOT_FOUND","message":"No such key"}}'),
    ("conflict", 409, b'{"error":{"code":"CONFLICT","message":"The key is revoked"}}'),
    ("limited", 429, b'{"error":{"code":"RATE_LIMITED","message":"Too many failed attempts"}}'),
    ("unavailable", 503, b'{"error":{"code":"UNAVAILABLE","message":"The ledger cannot be reached"}}'),
    ("bug", 500, OPAQUE),
]


@pytest.mark.parametrize(("name", "status", "body"), KEY_ERRORS, ids=[row[0] for row in KEY_ERRORS])
def test_raised_errors_have_the_exact_bytes(client: TestClient[Litestar], name: str, status: int, body: bytes) -> None:
    """Whatever a handler raises becomes its row of the table, as compact JSON with a length and a type."""
    answer = client.get(f"/raise/{name}")
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(("name", "status", "body"), KEY_ERRORS, ids=[row[0] for row in KEY_ERRORS])
def test_code_outside_the_framework_answers_the_same(name: str, status: int, body: bytes) -> None:
    """`render` gives raw ASGI code exactly what the framework's handlers give: status, body and headers."""
    error = RAISED[name]
    rendered = render(error, token_sent=False) if isinstance(error, KeyledgerError) else INTERNAL_ERROR
    assert (rendered.status, rendered.body) == (status, body)
    assert dict(rendered.headers) == call("GET", f"/raise/{name}").headers


def test_every_kind_has_its_row() -> None:
    """No kind of the domain falls through to the opaque 500."""
    assert set(KINDS) == set(KeyledgerError.__subclasses__())


def test_an_unknown_kind_is_opaque() -> None:
    """A kind that nobody gave a row is a 500 that tells nothing, not a leak."""
    assert render(KeyledgerError("private words"), token_sent=False) is INTERNAL_ERROR


def test_refused_credentials_share_one_object() -> None:
    """All reasons for a 401 give one precomputed answer, so bytes and time cannot tell them apart."""
    reasons = [UnauthenticatedError(context={"reason": reason}) for reason in ("revoked", "unknown", "expired")]
    assert all(render(error, token_sent=True) is UNAUTHORIZED_TOKEN for error in reasons)
    assert all(render(error, token_sent=False) is UNAUTHORIZED for error in reasons)
    assert UNAUTHORIZED.body == UNAUTHORIZED_TOKEN.body == INVALID_KEY


def test_the_challenge_says_whether_a_token_came() -> None:
    """RFC 6750 section 3.1: no error code without a token, `invalid_token` with one."""
    bare = call("GET", "/raise/unauthenticated")
    sent = call("GET", "/raise/unauthenticated", headers=TOKEN)
    assert bare.headers[b"www-authenticate"] == b'Bearer realm="keyledger"'
    assert sent.headers[b"www-authenticate"] == b'Bearer realm="keyledger", error="invalid_token"'
    assert bare.body == sent.body == INVALID_KEY


def test_a_missing_scope_is_named() -> None:
    """RFC 6750 section 3.1: the 403 of a missing scope names it; other 403s have no challenge."""
    expected = b'Bearer realm="keyledger", error="insufficient_scope", scope="keys:write"'
    assert call("GET", "/raise/scope", headers=TOKEN).headers[b"www-authenticate"] == expected
    assert b"www-authenticate" not in call("GET", "/raise/forbidden", headers=TOKEN).headers


def test_a_scope_cannot_write_headers() -> None:
    """A scope that is no scope-token (RFC 6749 section 3.3) never reaches a header."""
    rendered = render(ForbiddenError(scope='x"\r\nset-cookie: a=b'), token_sent=True)
    assert b"www-authenticate" not in dict(rendered.headers)


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    """429 and 503 tell when to come back, rounded up, at least one second."""
    assert call("GET", "/raise/limited").headers[b"retry-after"] == b"13"
    assert call("GET", "/raise/unavailable").headers[b"retry-after"] == b"1"
    assert dict(render(RateLimitedError(timedelta(0)), token_sent=False).headers)[b"retry-after"] == b"1"


def test_unknown_paths_are_a_404() -> None:
    """A path that no route has: 404, and neither path nor query in the answer."""
    expected = b'{"error":{"code":"NOT_FOUND","message":"No such path"}}'
    for path in ("/nowhere", "/", "/things/1/nowhere?key=secret", "/%00", "/things/a/b/c"):
        assert (call("GET", path).status, call("GET", path).body) == (404, expected)


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT", "HEAD", "TRACE", "BREW"])
def test_unknown_methods_are_a_405_that_says_what_is_allowed(method: str) -> None:
    """A method that the path does not take: 405 with Allow (RFC 9110 section 15.5.6)."""
    heard = call(method, "/things")
    assert heard.status == 405
    assert heard.body == b'{"error":{"code":"METHOD_NOT_ALLOWED","message":"This path does not take that method"}}'
    assert heard.headers[b"allow"] == b"GET, OPTIONS, POST"


def test_a_body_announced_too_large_is_refused_unread() -> None:
    """Content-Length over the limit: 413 before a byte is read."""
    headers = {"Content-Length": str(BODY_BYTES_MAX + 1)}
    heard = call("POST", "/things", chunks=[], headers=headers)
    assert (heard.status, heard.body) == (413, TOO_LARGE)


def test_a_body_that_grows_too_large_is_refused() -> None:
    """Without Content-Length the limit holds for what arrives: 413."""
    heard = call("POST", "/things", chunks=[b"x" * 1024] * 65)
    assert (heard.status, heard.body) == (413, TOO_LARGE)


def test_a_body_in_chunks_is_read_whole() -> None:
    """A body without Content-Length, cut anywhere, is read like any other."""
    assert call("POST", "/things", chunks=[b'{"na', b'me":', b'"a"}', b""]).status == 201


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b'{"name":"a"} x',
        b"name=a",
        b"\xff",
        b'{"name":"\xff"}',
        b'{"\xff":"a"}',
        b'{"name":"\\ud800"}',
        b'\xef\xbb\xbf{"name":"a"}',
        b"[" * 60_000,
        b'{"name":"a","limits":' + b'{"a":' * 10_000 + b"}" * 10_000 + b"}",
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_no_body_reaches_a_handler_unless_it_is_json(raw: bytes) -> None:
    """Unreadable JSON, invalid UTF-8 and bottomless nesting: 400 or 422, never a 500."""
    heard = post_json(raw)
    if raw[:1] == b"[" or b'"limits"' in raw:
        assert heard.status == 422
    else:
        assert (heard.status, heard.body) == (400, UNREADABLE)


def test_bottomless_nesting_without_a_type_is_unreadable() -> None:
    """Where no type stops the nesting early, the decoder's recursion limit is a 400 too."""
    with pytest.raises(MalformedError, match="not readable JSON"):
        decode(b"[" * 60_000, Any)


def test_a_missing_body_is_told_apart() -> None:
    """Where a body is needed, none is a 400 that says so; where it is optional, none is fine."""
    heard = call("POST", "/things")
    assert (heard.status, heard.body) == (
        400,
        b'{"error":{"code":"BAD_REQUEST","message":"The request needs a JSON body"}}',
    )
    assert call("POST", "/things/1/touch").status == 201


FIELDS = [
    (b'{"name":1}', ("name", "Expected `str`, got `int`")),
    (b"{}", ("name", "Missing required field")),
    (b'{"name":"a","colour":1}', ("colour", "Unknown field")),
    (b'{"name":"' + b"x" * 101 + b'"}', ("name", "Expected `str` of length <= 100")),
    (b'{"name":"a","scopes":"keys:read"}', ("scopes", "Expected `array | null`, got `str`")),
    (b'{"name":"a","scopes":["x",1]}', ("scopes[1]", "Expected `str`, got `int`")),
    (b'{"name":"a","grace_seconds":"60"}', ("grace_seconds", "Expected `int`, got `str`")),
    (b'{"name":"a","grace_seconds":null}', ("grace_seconds", "Expected `int`, got `null`")),
    (b'{"name":"a","grace_seconds":1e999}', ("grace_seconds", "Number out of range")),
    (b'{"name":"a","network":{}}', ("network.cidr", "Missing required field")),
    (b'{"name":"a","network":{"cidr":"a","x":1}}', ("network.x", "Unknown field")),
    (b'{"name":"a","limits":{"a":"b"}}', ("limits[...]", "Expected `int`, got `str`")),
    (b"[]", ("", "Expected `object`, got `array`")),
    (b"null", ("", "Expected `object`, got `null`")),
    (b'"data"', ("", "Expected `object`, got `str`")),
]


@pytest.mark.parametrize(("raw", "problem"), FIELDS, ids=[repr(raw[:40]) for raw, _ in FIELDS])
def test_a_faulty_field_is_named_as_the_client_wrote_it(raw: bytes, problem: tuple[str, str]) -> None:
    """Wrong types, missing and unknown fields: 422 with the place in the client's own JSON; nothing is coerced."""
    heard = post_json(raw)
    assert (heard.status, heard.body) == (422, validation(problem))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("?status=x&limit=ten", ("limit", "Expected `int`, got `str`")),
        ("?status=x&limit=0", ("limit", "Expected `int` >= 1")),
        ("?status=x&from=then", ("from", "Expected `int | null`, got `str`")),
        ("?limit=5", ("status", "Missing required parameter")),
    ],
)
def test_a_faulty_parameter_is_named_as_the_client_wrote_it(query: str, problem: tuple[str, str]) -> None:
    """Query parameters: 422 with their name in the URL, not the name of the argument behind it."""
    heard = call("GET", f"/things{query}")
    assert (heard.status, heard.body) == (422, validation(problem))


def test_what_the_client_sent_comes_back_cut_and_encodable() -> None:
    """Names that the client made up are repeated at bounded length, in bounded number, and always as valid JSON."""
    heard = post_json(b'{"name":"a","' + b"x" * 10_000 + b'":1}')
    assert len(json.loads(heard.body)["error"]["details"][0]["field"]) == 200
    error = InvalidError([FieldProblem("\ud800", "\x00\u202e")] * 1000)
    details = json.loads(render(error, token_sent=False).body)["error"]["details"]
    assert details == [{"field": "\\ud800", "message": "\x00\u202e"}] * DETAILS_MAX


def test_a_body_that_is_not_announced_is_not_asked_for() -> None:
    """The head says that none comes (RFC 9112 section 6.3): the server is not asked for one."""
    heard = call("POST", "/things", chunks=[b'{"name":"a"}'], headers={"Content-Length": "0"})
    assert heard.body == b'{"error":{"code":"BAD_REQUEST","message":"The request needs a JSON body"}}'


def test_a_client_that_goes_away_is_no_failure_of_ours() -> None:
    """A body that ends early is a 400 to nobody, and nothing is logged as an error."""
    with structlog.testing.capture_logs() as lines:
        heard = call("POST", "/things", chunks=[b'{"name":'], ends=False)
    assert heard.status == 400
    assert [line for line in lines if line["log_level"] in {"error", "warning"}] == []


def test_a_body_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds a body back is told so in the end, and holds nothing else up."""
    monkeypatch.setattr("interfaces.http.body.BODY_SECONDS", 0.05)
    heard = call("POST", "/things", chunks=[b'{"name":'], ends=False, goes=False)
    assert heard.status == 400
    assert heard.body == b'{"error":{"code":"BAD_REQUEST","message":"The request body did not end in time"}}'


@pytest.mark.parametrize("path", ["/raise/bug", "/unencodable"])
def test_a_bug_is_opaque_and_logged_once(path: str) -> None:
    """An unexpected exception tells the caller nothing and the log everything, once."""
    with structlog.testing.capture_logs() as lines:
        heard = call("GET", path)
    assert (heard.status, heard.body) == (500, OPAQUE)
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert line["event"] == "unhandled_error"
    assert isinstance(line["exc_info"], Exception)


def test_private_context_goes_to_the_log_alone() -> None:
    """The reason of a refusal is logged and not answered."""
    with structlog.testing.capture_logs() as lines:
        heard = call("GET", "/raise/unauthenticated", headers=TOKEN)
    assert b"revoked" not in heard.body
    assert [line["context"] for line in lines] == [{"reason": "revoked"}]


def test_head_gets_no_body_from_raw_code() -> None:
    """RFC 9110 section 9.3.2: HEAD is answered with the headers of the error and no content."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(UNAUTHORIZED({"type": "http", "method": "HEAD"}, None, send))
    assert [sent[0]["status"], sent[1]["body"]] == [401, b""]


def test_nothing_of_the_framework_touches_logging() -> None:
    """Built this way, Litestar has no logger of its own and cannot write a body or a traceback anywhere."""
    app = build_app()
    assert (app.logging_config, app.logger, app.debug, app.pdb_on_exception) == (None, None, False, False)


def test_a_key_is_judged_once_behind_a_body() -> None:
    """Also behind JSON: whoever asks for a body that has been read gets it, and nobody is asked anew."""
    judged: list[str] = []

    async def judge_again() -> None:
        judged.append("again")

    assert call("POST", "/things", chunks=[b'{"name":', b'"x"}'], judge_again=judge_again).status == 201
    assert judged == ["again"]


def test_the_body_is_not_lost_to_other_readers() -> None:
    """A handler that asks for the raw request still reads the body once and whole."""

    @post("/raw")
    async def raw(request: Request[Any, Any, Any]) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    with TestClient(Litestar([raw], request_class=JsonRequest, logging_config=None, openapi_config=None)) as client:
        assert client.post("/raw", content=b"12345").json() == {"bytes": 5}
