"""`/auth/forward` under whatever a proxy, or its client, may send: nobody is let through by how a question is put.

`test_http_forward.py` has the answers of the usual questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.interfaces.conftest import Owner
from tests.kit.databases import away
from tests.kit.http_answers import Heard
from tests.kit.http_server import HttpServer, Key, serving
from tests.kit.service import eventually

IDENTITY = ("x-keyledger-key-id", "x-keyledger-account-id", "x-keyledger-environment", "x-keyledger-scopes")
NOBODY = ["", "", "", ""]


def identity(heard: Heard) -> list[str | None]:
    """The identity headers' values, None for one that is absent."""
    return [heard.header(name) for name in IDENTITY]


def rows_of(server: HttpServer, heard: Heard) -> list[tuple[Any, ...]]:
    """The access rows of one question."""
    query = "SELECT method, endpoint, status, client_ip FROM usage.access_log WHERE request_id = %(id)s"
    return server.rows(query, {"id": heard.request_id})


# -- the question


@pytest.mark.parametrize("size", [0, 1, 100_000, 1_000_000])
def test_a_body_is_nobodys_business(server: HttpServer, owner: Owner, size: int) -> None:
    """Whatever its length, also over the limit of the API's own bodies, it changes nothing and is not waited for."""
    with server.client(owner.key.secret) as client:
        heard = client.post("/auth/forward", body=b"x" * size)
    assert (heard.status, heard.body) == (200, b"")
    lines = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {owner.key.secret}\r\nContent-Length: 9"
    [heard] = server.hear(f"POST /auth/forward HTTP/1.1\r\n{lines}\r\n\r\n".encode())
    assert heard.status == 200


def test_a_head_is_answered_without_a_body(server: HttpServer, owner: Owner) -> None:
    """HEAD, accepted and refused: the status and the identity headers of a GET."""
    with server.client() as client:
        for key in (owner.key.secret, "nonsense", None):
            got, head = (client.call(method, "/auth/forward", key=key) for method in ("GET", "HEAD"))
            assert (head.status, head.body, identity(head)) == (got.status, b"", identity(got))


@pytest.mark.parametrize(
    "lines",
    [
        "Authorization: Bearer {key}\r\nAuthorization: Bearer {key}",
        "authorization: Bearer {key}\r\nAUTHORIZATION: Basic eDp5",
        "Authorization: Bearer nonsense\r\nAuthorization: Bearer {key}",
        "Authorization: Bearer {key}, Bearer {key}",
        "X-Api-Key: {key}\r\nCookie: key={key}\r\nX-Forwarded-Authorization: Bearer {key}",
        "X-Forwarded-Uri: /?access_token={key}",
    ],
)
def test_a_key_is_one_authorization_line(server: HttpServer, owner: Owner, lines: str) -> None:
    """Two lines, a joined one, or a key elsewhere: 401, and nobody is named."""
    asked = (
        f"GET /auth/forward HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines.format(key=owner.key.secret)}\r\n\r\n"
    )
    [heard] = server.hear(asked.encode())
    assert (heard.status, identity(heard)) == (401, NOBODY)


@pytest.mark.parametrize(
    "path", ["/auth/forward/../../api/keys", "/auth/forward//", "/auth/forward/%00%ff", "/auth/forward/\xe9"]
)
def test_whatever_follows_is_the_original_path(server: HttpServer, owner: Owner, path: str) -> None:
    """Dots, empty segments and bytes that are no ASCII lead nowhere else, and leave their row."""
    asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {owner.key.secret}\r\n\r\n"
    [heard] = server.hear(asked.encode())
    assert (heard.status, heard.body, heard.header("x-keyledger-key-id")) == (200, b"", owner.key.id)
    assert len(rows_of(server, heard)) == 1


# -- the row


TARGETS = [
    ("X-Forwarded-Uri", "/a%20b/c?token=x", "/a b/c"),
    ("X-Original-URI", "/caf\u00e9?token=x", "/caf\u00e9"),
    ("X-Original-URI", "/%3Fnot-a-query?token=x", "/?not-a-query"),
    ("X-Original-URL", "https://user:secret@shop.example:8443/orders/7?token=x", "/orders/7"),
    ("X-Forwarded-Uri", "//x/y?z", "//x/y"),
    ("X-Forwarded-Uri", "/%00%ff", "/\ufffd\ufffd"),
    ("X-Forwarded-Uri", "?token=x", "/auth/forward"),
    ("X-Forwarded-Uri", "https://shop.example?token=x", "/auth/forward"),
    ("X-Forwarded-Uri", "/" + "a" * 1000, "/" + "a" * 511),
    ("X-Forwarded-Uri", "/keys/{key}/x", "/keys/{prefix}\u2026/x"),
    ("X-Forwarded-Uri", "/keys/{percent}?{key}", "/keys/{prefix}\u2026"),
]


@pytest.mark.parametrize(("name", "sent", "logged"), TARGETS)
def test_the_path_is_logged_as_a_server_reads_it(
    server: HttpServer, owner: Owner, name: str, sent: str, logged: str
) -> None:
    """Decoded, cut at 512 characters, without origin, query, and whatever key is in it."""
    key = owner.key.secret
    words = {"key": key, "percent": key.replace("_", "%5f"), "prefix": key.rpartition("_")[0]}
    heard = owner.client.get("/auth/forward", headers=[(name, sent.format(**words).encode())])
    assert [row[1] for row in rows_of(server, heard)] == [logged.format(**words)]


def test_a_refusal_is_logged_with_what_was_asked(server: HttpServer) -> None:
    """401: the row has the original method and path, the status that was answered, and the client."""
    lines = [
        ("X-Forwarded-For", "203.0.113.5"),
        ("X-Forwarded-Method", "PROPPATCHES-AND-MORE"),
        ("X-Forwarded-Uri", "/7"),
    ]
    with server.client("nonsense") as client:
        heard = client.get("/auth/forward", headers=lines)
    assert rows_of(server, heard) == [("PROPPATCHES-AND-", "/7", 401, "203.0.113.5")]


# -- where the client is


@pytest.fixture
def fenced(server: HttpServer, owner: Owner) -> Key:
    """A key for one network."""
    return server.back.key(owner.key.account_id, networks=["192.0.2.0/24"])


HOPS = [
    (["192.0.2.7"], 200),
    (["203.0.113.9, 192.0.2.7"], 200),  # what a client writes stands left of what the proxy adds
    (["192.0.2.7, 203.0.113.9"], 403),
    (["203.0.113.9", "192.0.2.7, 127.0.0.1"], 200),  # lines are one list, and a trusted hop is passed over
    (["192.0.2.7", "203.0.113.9"], 403),
    (["192.0.2.7, unknown"], 403),
    ([""], 403),
]


@pytest.mark.parametrize(("lines", "status"), HOPS)
def test_networks_are_judged_by_the_proxys_client(
    server: HttpServer, fenced: Key, lines: list[str], status: int
) -> None:
    """The rightmost hop that is no trusted proxy; what stands left of it is the client's own word."""
    with server.client(fenced.secret) as client:
        heard = client.get("/auth/forward", headers=[("X-Forwarded-For", line) for line in lines])
    assert heard.status == status
    assert (identity(heard) == NOBODY) == (status == 403)


# -- 429 and 503


@pytest.fixture(scope="module")
def own(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server on a database of its own, where one wrong guess a minute is too many."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE forward TEMPLATE migrated")
    conninfo = make_conninfo(postgres, dbname="forward")
    with serving(conninfo, tmp_path_factory.mktemp("forward") / "log", failed_attempts_per_minute="1") as running:
        yield running


def ask_as_nginx(own: HttpServer, credential: str) -> Heard:
    """The answer in nginx's dialect."""
    lines = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {credential}\r\nX-Forwarded-For: 203.0.113.5"
    [heard] = own.hear(f"GET /auth/forward?dialect=nginx HTTP/1.1\r\n{lines}\r\n\r\n".encode())
    return heard


def test_over_the_limit_nginx_learns_the_true_status_and_no_row_is_left(own: HttpServer) -> None:
    """429, or for nginx 403 with the 429 in `X-Keyledger-Status`: `Retry-After` in both, a row in neither."""
    with own.client("guess") as client:
        here = [("X-Forwarded-For", "203.0.113.5")]
        assert client.get("/auth/forward", headers=here).status == 401
        plain, told = client.get("/auth/forward", headers=here), ask_as_nginx(own, "guess")
        assert (plain.status, plain.header("x-keyledger-status")) == (429, None)
        assert (told.status, told.header("x-keyledger-status")) == (403, "429")
        for heard in (plain, told):
            assert heard.body == b'{"error":{"code":"RATE_LIMITED","message":"Too many failed attempts"}}'
            assert 1 <= int(heard.header("retry-after") or 0) <= 60
            assert identity(heard) == NOBODY
            assert rows_of(own, heard) == []
        good = own.back.key(own.back.account()).secret
        assert client.get("/auth/forward", key=good, headers=here).status == 200


def test_what_cannot_be_proven_is_not_let_through(own: HttpServer) -> None:
    """The database gone: 503, or for nginx 403 with the 503 in `X-Keyledger-Status`; nobody is named."""
    good = own.back.key(own.back.account()).secret
    with own.client(good) as client:
        assert client.get("/auth/forward").status == 200
        with away(own.conninfo):
            eventually(lambda: client.get("/auth/forward").status == 503, "the key cannot be proven any more")
            plain, told = client.get("/auth/forward"), ask_as_nginx(own, good)
        assert (plain.status, plain.header("x-keyledger-status")) == (503, None)
        assert (told.status, told.header("x-keyledger-status")) == (403, "503")
        for heard in (plain, told):
            assert heard.json["error"]["code"] == "UNAVAILABLE"
            assert int(heard.header("retry-after") or 0) >= 1
            assert identity(heard) == NOBODY
        eventually(lambda: client.get("/auth/forward").status == 200, "the key is accepted again")
