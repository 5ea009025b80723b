"""What only a socket shows: requests that no client library sends, and connections that carry more than one."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from infrastructure.system import allow_descriptors
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import Heard, check_answer, read_answers
from tests.kit.http_server import HOST, HttpServer

LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CAMPAIGN = b'{"name":"Smuggled"}'


def head(line: str, owner: Owner, *more: str) -> bytes:
    """A request's head with the owner's key; the connection stays open unless ``more`` says otherwise."""
    lines = [f"{line} HTTP/1.1", "Host: x", f"Authorization: Bearer {owner.key.secret}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def campaigns(owner: Owner) -> list[str]:
    """The names of the owner's campaigns."""
    return [campaign["name"] for campaign in owner.client.get("/api/campaigns").json["data"]]


def test_pipelined_requests_are_answered_in_order(server: HttpServer, owner: Owner) -> None:
    """Requests sent at once over one connection get their own answers, in their order."""
    create = head("POST /api/campaigns", owner, f"Content-Length: {len(CAMPAIGN)}") + CAMPAIGN
    heard = server.hear(create + head("GET /api/campaigns", owner) + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
    assert [answer.status for answer in heard] == [201, 200, 404, 200]
    assert heard[1].json["data"] == [heard[0].json]
    assert len({answer.request_id for answer in heard}) == 4
    for answer in heard:
        check_answer(answer, creates=True)


@pytest.mark.parametrize("cuts", [1, 2, 7])
def test_a_body_in_chunks_is_read_whole(server: HttpServer, owner: Owner, cuts: int) -> None:
    """A chunked body, cut anywhere, is the body; what follows on the connection is the next request."""
    parts = [CAMPAIGN[place : place + cuts] for place in range(0, len(CAMPAIGN), cuts)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    heard = server.hear(head("POST /api/campaigns", owner, "Transfer-Encoding: chunked"), chunks, LAST)
    assert [answer.status for answer in heard] == [201, 200]
    assert heard[0].json["name"] == "Smuggled"


def test_a_body_nobody_reads_is_not_the_next_request(server: HttpServer, owner: Owner) -> None:
    """The body of a request that is refused, or that takes none, is passed over."""
    inner = head("POST /api/campaigns", owner, f"Content-Length: {len(CAMPAIGN)}") + CAMPAIGN
    length = f"Content-Length: {len(inner)}"
    for line in ("GET /api/campaigns", "POST /nowhere", "PUT /api/campaigns", "GET /health/live"):
        heard = server.hear(head(line, owner, length) + inner + LAST)
        assert len(heard) == 2
    refused = f"POST /api/campaigns HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode()
    assert [answer.status for answer in server.hear(refused + inner + LAST)] == [401, 200]
    assert campaigns(owner) == []


AMBIGUOUS = [
    ("Content-Length: 6", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 6"),
    ("Content-Length: 6", "Content-Length: 7"),
    ("Content-Length: 6, 7",),
    ("Content-Length: +6",),
    ("Content-Length: 0x6",),
    ("Content-Length: 6 6",),
    ("Content-Length: -6",),
    ("Content-Length: 99999999999999999999",),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding: identity",),
    ("Transfer-Encoding : chunked",),
    ("Transfer-Encoding: chunked\r\n\tx",),
    ("Content-Length : 6",),
    (" Content-Length: 6",),
    ("Content-Length\0: 6",),
]


@pytest.mark.parametrize("lines", AMBIGUOUS, ids=repr)
def test_an_ambiguous_length_smuggles_nothing(server: HttpServer, owner: Owner, lines: tuple[str, ...]) -> None:
    """Where two readers may disagree on a body's end: a 4xx, and the connection ends with it (RFC 9112 section 6.1)."""
    smuggled = head("POST /api/campaigns", owner, f"Content-Length: {len(CAMPAIGN)}") + CAMPAIGN
    heard = server.hear(head("POST /api/campaigns", owner, *lines) + b"0\r\n\r\n" + smuggled + LAST)
    assert len(heard) == 1
    assert 400 <= heard[0].status < 500
    assert campaigns(owner) == []


NO_REQUESTS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"hello\r\n\r\n",
    b"GET /health/live\r\n\r\n",
    b"GET /health/live HTTP/1.1 x\r\n\r\n",
    b"GET /health/live HTTP/9.9\r\n\r\n",
    b"GET /health /live HTTP/1.1\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nAuthorization: a\0b\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nAuthorization: Bearer\r\n folded\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("raw", NO_REQUESTS, ids=[repr(raw)[:50] for raw in NO_REQUESTS])
def test_what_is_no_request_is_cut_off(server: HttpServer, raw: bytes) -> None:
    """Bytes that are no HTTP/1.1 request end the connection before any layer of ours: a bare 400, or no word at all."""
    heard = server.hear(raw + b"\r\n\r\n")
    assert [(answer.status, answer.body) for answer in heard] in ([], [(400, b"")])


def test_headers_have_a_limit(server: HttpServer, owner: Owner) -> None:
    """Up to 16 KiB and a hundred lines of headers are read; more is a 431, and nobody of ours sees it."""
    modest = head("GET /api/campaigns", owner, "Connection: close", *(f"X-{n}: {'a' * 100}" for n in range(90)))
    assert [answer.status for answer in server.hear(modest)] == [200]
    for lines in ([f"X: {'a' * 20_000}"], [f"X-{n}: a" for n in range(200)]):
        [heard] = server.hear(head("GET /api/campaigns", owner, "Connection: close", *lines))
        assert (heard.status, heard.body) == (431, b"")
    [heard] = server.hear(head(f"GET /{'a' * 20_000}", owner, "Connection: close"))
    assert heard.status in {414, 431}


HEADS = [
    ("/api/campaigns", b"200 OK"),
    ("/api/keys/key_000000000", b"404 Not Found"),
    ("/api/verify", b"405 Method Not Allowed"),
    ("/nowhere", b"404 Not Found"),
    ("/health/live", b"200 OK"),
    ("/schema", b"200 OK"),
]


@pytest.mark.parametrize(("path", "status"), HEADS, ids=[path for path, _ in HEADS])
def test_head_is_answered_as_get_without_the_body(server: HttpServer, owner: Owner, path: str, status: bytes) -> None:
    """RFC 9110 section 9.3.2; without content, so that the next answer on the connection is not mistaken for it."""
    raw = server.speak(head(f"HEAD {path}", owner) + LAST)
    first, _, rest = raw.partition(b"\r\n\r\n")
    assert first.split(b"\r\n")[0] == b"HTTP/1.1 " + status
    assert b"x-request-id: req_" in first
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    asked = server.speak(head(f"GET {path}", owner, "Connection: close")).partition(b"\r\n\r\n")[0]
    assert field(first, b"content-type") == field(asked, b"content-type")


def test_a_head_leaves_a_row_that_says_so(server: HttpServer, owner: Owner) -> None:
    """A use of the key like any other."""
    server.speak(head("HEAD /api/campaigns", owner, "Connection: close"))
    newest = owner.client.get("/api/access-logs?path=/api/campaigns&limit=1").json["data"][0]
    assert (newest["method"], newest["status"]) == ("HEAD", 200)


def field(heads: bytes, name: bytes) -> list[bytes]:
    """The lines of that name in a head."""
    return [line for line in heads.lower().split(b"\r\n") if line.startswith(name + b":")]


LINES = [
    ("GET /api/campaigns", 200),
    ("GET http://elsewhere/api/campaigns", 200),  # the absolute form is one that a server must take (RFC 9112, 3.2.2)
    ("GET /api/keys/\u00e9", 404),
    ("OPTIONS *", 404),
    ("CONNECT elsewhere:443", 404),
    ("GET //", 404),
    ("GET /?" + "a" * 8_000, 404),
]


@pytest.mark.parametrize(("line", "status"), LINES, ids=[line[:30] for line, _ in LINES])
def test_any_request_line_has_an_answer_of_ours(server: HttpServer, owner: Owner, line: str, status: int) -> None:
    """Whatever parses as a request is answered in the one form."""
    [heard] = server.hear(head(line, owner, "Connection: close"))
    assert heard.status == status
    check_answer(heard)


REFUSED = [
    ("GET /notifications/mute", 422, False),
    ("GET /api/keys?limit=1000", 422, True),
    ("POST /api/keys", 400, True),
    ("POST /api/campaigns", 400, True),
]


@pytest.mark.parametrize("host", ["a:b", "x:99999", "x:-1", "x:", "[::1", "[::1]:a", ""])
def test_a_host_changes_no_refusal(server: HttpServer, owner: Owner, host: str) -> None:
    """What `Host` says names nothing here: a faulty query and a missing body are told, with it as without it."""
    for line, status, with_key in REFUSED:
        lines = [f"{line} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if with_key:
            lines.append(f"Authorization: Bearer {owner.key.secret}")
        [heard] = server.hear(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert heard.status == status, line
        check_answer(heard)


def test_older_clients_are_served(server: HttpServer) -> None:
    """HTTP/1.0, and bare line feeds, get their answer."""
    for raw in (b"GET /health/live HTTP/1.0\r\n\r\n", b"GET /health/live HTTP/1.1\nHost: x\nConnection: close\n\n"):
        assert statuses(server.hear(raw)) == [200]


@pytest.mark.parametrize("key", ["nonsense", None])
def test_a_refusal_may_come_before_the_body(server: HttpServer, key: str | None) -> None:
    """A body that comes after the answer is taken and the connection serves on; one that never comes ends it."""
    authorization = "" if key is None else f"Authorization: Bearer {key}\r\n"
    refused = f"POST /api/campaigns HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {len(CAMPAIGN)}\r\n\r\n"
    with socket.create_connection((HOST, server.port), timeout=10) as line:
        for _ in range(3):
            line.sendall(refused.encode())
            assert line.recv(65_536).startswith(b"HTTP/1.1 401")
            line.sendall(CAMPAIGN)
        line.sendall(refused.encode())
        assert line.recv(65_536).startswith(b"HTTP/1.1 401")
        assert line.recv(65_536) == b""


def test_a_websocket_is_not_opened(server: HttpServer, owner: Owner) -> None:
    """An upgrade is passed over: the request is answered as the plain one that it also is."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    heard = server.hear(head("GET /api/campaigns", owner, *upgrade) + LAST)
    assert statuses(heard) == [200, 200]


def test_a_client_that_waits_to_send_is_told_to_go_on(server: HttpServer, owner: Owner) -> None:
    """`Expect: 100-continue`: told to go on when the body is wanted, and refused before it is sent when it is not."""
    expecting = ("Expect: 100-continue", f"Content-Length: {len(CAMPAIGN)}", "Connection: close")
    raw = server.speak(head("POST /api/campaigns", owner, *expecting), CAMPAIGN)
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n")
    nobody = "\r\n".join(["POST /api/campaigns HTTP/1.1", "Host: x", *expecting, "", ""]).encode()
    assert statuses(server.hear(nobody)) == [401]


def statuses(heard: list[Heard]) -> list[int]:
    """The answers' statuses."""
    return [answer.status for answer in heard]


@pytest.mark.parametrize(
    ("change", "status"),
    [("revoke", 401), ("disable", 401), ("rescope", 403)],
)
def test_a_body_that_is_held_back_keeps_no_key_alive(
    server: HttpServer, owner: Owner, change: str, status: int
) -> None:
    """The key is judged again behind the body: what was answered of it meanwhile counts, and is what the row says."""
    held = server.back.key(owner.key.account_id)
    content = b'{"name":"Held back","environment":"live"}'
    with socket.create_connection((HOST, server.port), timeout=30) as line:
        line.sendall(
            f"POST /api/keys HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {held.secret}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content[:-1]
        )
        # Answered on another connection behind it, so that the head has been judged.
        assert owner.client.get("/api/campaigns").status == 200
        if change == "revoke":
            assert owner.client.post(f"{held.path}/revoke").status == 200
        elif change == "disable":
            assert owner.client.post(f"{held.path}/disable").status == 200
        else:
            assert owner.client.call("PATCH", held.path, {"scopes": ["keys:read"]}).status == 200
        line.sendall(content[-1:])
        [heard] = read_answers(b"".join(iter(lambda: line.recv(65_536), b"")))
    check_answer(heard)
    assert heard.status == status
    names = [key["name"] for key in owner.client.get("/api/keys").json["data"]]
    assert "Held back" not in names
    rows = server.rows(
        "SELECT status, accepted FROM usage.access_log WHERE request_id = %(id)s", {"id": heard.request_id}
    )
    assert rows == [(status, False)]


def test_many_idle_connections_keep_nobody_out(server: HttpServer, owner: Owner) -> None:
    """More than wait to be accepted (1,024), opened by one client without a word."""
    allow_descriptors(3_000)
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((HOST, server.port), timeout=30)) for _ in range(1_100)]
        with server.client(owner.key.secret) as client:
            assert client.get("/api/campaigns").status == 200
        idle[0].settimeout(0)
        with pytest.raises(BlockingIOError):  # it is there still: nobody had to wait for its end
            idle[0].recv(1)
