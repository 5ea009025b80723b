"""The middleware without a server between: what a host of any kind sees of it, on a real database."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest

from domain.api_key import GraceStart, RevocationReason
from domain.errors import ForbiddenError
from infrastructure.postgres.access_batch import BatchArguments
from interfaces.asgi import KeyledgerMiddleware, principal_of, require
from interfaces.bootstrap import management, open_core
from interfaces.settings import SettingError, Settings
from tests.kit.asgi import Server, handshake, living, request
from tests.kit.http_server import ROOT_SECRET, Back, HttpServer, Key, QuickVerifiers

FORBIDDEN = b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'
INVALID_KEY = b'{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}'
UNAVAILABLE = b'{"error":{"code":"UNAVAILABLE"'
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"x-host", b"1")]}
DEADLINE_SECONDS = 30
BODY: dict[str, Any] = {"type": "http.response.body", "body": b"host"}


@pytest.fixture
def settings(conninfo: str) -> Settings:
    """Of a host, on a database of its own."""
    return Settings(database_url=conninfo, secret_keys=(ROOT_SECRET,), database_connections=2)


@pytest.fixture
def database_and_back(conninfo: str, settings: Settings, tmp_path: Path) -> Iterator[HttpServer]:
    """Management in another place than the host, and a look into the database; there is no server."""
    with ExitStack() as stack:
        core = replace(open_core(settings, conninfo, stack), verifiers=cast("Any", QuickVerifiers()))
        yield HttpServer(0, conninfo, tmp_path / "log", Back(core, management(core)))


@pytest.fixture
def back(database_and_back: HttpServer) -> Back:
    """Management."""
    return database_and_back.back


@pytest.fixture
def key(back: Back) -> Key:
    """A good key with full access."""
    return back.key(back.account())


def revoke(back: Back, key: Key) -> None:
    """Revokes the key."""
    back.manage.keys.revoke(
        account_id=key.account_id, key_id=key.id, reason=RevocationReason.OTHER, note=None, by=back.origin()
    )


def rotate(back: Back, key: Key, *, starts: GraceStart = GraceStart.NOW) -> tuple[Key, list[tuple[bytes, bytes]]]:
    """Rotates the key, an hour of grace; its successor, and what answers to the key have to say from now on."""
    by = back.origin()
    issued = back.manage.keys.rotate(
        account_id=key.account_id, key_id=key.id, grace=timedelta(hours=1), grace_starts=starts, by=by
    )
    told = [(b"deprecation", b"@%d" % by.at.timestamp())]
    if starts is GraceStart.NOW:
        told.append((b"sunset", format_datetime((by.at + timedelta(hours=1)).astimezone(UTC), usegmt=True).encode()))
    return Key(issued.key.view.key_id, issued.secret.reveal(), key.account_id), told


def row(server: HttpServer) -> tuple[Any, ...]:
    """The one access row."""
    [only] = server.rows("SELECT status, outcome, accepted FROM usage.access_log")
    return only


def processes(server: HttpServer) -> int:
    """How many processes hold a lease."""
    return server.rows("SELECT count(*) FROM serving.processes")[0][0]


async def host(scope: Any, receive: Any, send: Any) -> None:
    """A host as Django is: HTTP alone, and an exception for everything else."""
    del receive
    if scope["type"] != "http":
        raise ValueError("only HTTP here")
    await send(START)
    await send(BODY)


def serve(app: Any, *servers: Server, settings: Settings, **given: Any) -> list[list[Any]]:
    """What each of the connections is sent by the application behind the middleware, one after another."""

    async def main() -> list[list[Any]]:
        mounted = KeyledgerMiddleware(app, protect=("/api/",), settings=settings, **given)
        async with living(mounted):
            return [await server.run(mounted) for server in servers]

    return asyncio.run(main())


def test_a_host_without_lifespan_has_that_of_the_middleware(
    database_and_back: HttpServer, key: Key, settings: Settings
) -> None:
    """The host refuses the scope (Django) or returns at once: opened at startup, closed at shutdown, all the same."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await host(scope, receive, send)

    for app in (host, silent):

        async def main(app: Any = app) -> None:
            mounted = KeyledgerMiddleware(app, protect=("/api/",), settings=settings)
            assert processes(database_and_back) == 0
            async with living(mounted):
                assert processes(database_and_back) == 1
                assert await request(key=key).run(mounted) == [START, BODY]
            assert processes(database_and_back) == 0

        asyncio.run(main())


def test_behind_a_hop_that_cannot_be_read_the_client_is_not_known(back: Back, key: Key, settings: Settings) -> None:
    """No network of a key has it, not even its proxy's own; its failed attempts count against the proxy."""
    local, guess = back.key(key.account_id, networks=["192.0.2.0/24"]), replace(key, secret="guess")
    behind = replace(settings, trusted_proxies=(IPv4Network("192.0.2.0/24"),), failed_attempts_per_minute=1)
    asked = [request(key=each) for each in (local, local, key, guess, guess)]
    for each in asked[1:]:
        each.scope["headers"].append((b"x-forwarded-for", b"unknown"))
    statuses = [sent[0]["status"] for sent in serve(host, *asked, settings=behind)]
    assert statuses == [200, 403, 200, 401, 429]


def test_a_host_that_cannot_start_leaves_nothing_open(database_and_back: HttpServer, settings: Settings) -> None:
    """Its own word to the server passes, and what was opened is closed."""
    failed = {"type": "lifespan.startup.failed", "message": "no"}

    async def broken(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(failed)

    async def main() -> None:
        mounted = KeyledgerMiddleware(broken, settings=settings)
        assert await Server({"type": "lifespan"}).run(mounted, {"type": "lifespan.startup"}) == [failed]

    asyncio.run(main())
    assert processes(database_and_back) == 0


def test_settings_that_cannot_be_meant_refuse_the_start(settings: Settings) -> None:
    """Without database or secrets when it is made; with an unreadable secret at startup, which the server is told."""
    for lacking in ({"database_url": None}, {"secret_keys": ()}):
        with pytest.raises(SettingError, match="must be set"):
            KeyledgerMiddleware(host, settings=replace(settings, **lacking))

    async def main() -> list[Any]:
        mounted = KeyledgerMiddleware(host, settings=replace(settings, secret_keys=("short",)))
        return await Server({"type": "lifespan"}).run(mounted, {"type": "lifespan.startup"})

    [said] = asyncio.run(main())
    assert said["type"] == "lifespan.startup.failed"
    assert said["message"].startswith("KEYLEDGER_SECRET_KEYS")


def test_without_a_database_it_opens_and_refuses_until_there_is_one(
    database_and_back: HttpServer, key: Key, settings: Settings
) -> None:
    """Open paths are served, protected ones are 503, and a 200 as soon as the lease is there."""

    async def main() -> None:
        mounted = KeyledgerMiddleware(host, protect=("/api/",), settings=settings)
        with ExitStack() as away:
            away.enter_context(database_and_back.database_away())
            async with living(mounted):
                assert (await request("/health").run(mounted)) == [START, BODY]
                start, body = await request(key=key).run(mounted)
                assert (start["status"], body["body"][: len(UNAVAILABLE)]) == (503, UNAVAILABLE)
                assert b"retry-after" in dict(start["headers"])
                away.close()
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while (await request(key=key).run(mounted))[0]["status"] != 200:  # noqa: ASYNC110 - it says no more
                        await asyncio.sleep(0.05)

    asyncio.run(main())


def test_on_a_database_that_is_not_migrated_it_opens_and_refuses(
    database_and_back: HttpServer, key: Key, settings: Settings
) -> None:
    """503 until the service has made its tables."""
    tables = [("credentials", "root_secrets"), ("serving", "processes")]
    with ExitStack() as stack:
        for schema, table in tables:
            stack.enter_context(database_and_back.renamed(schema, table))
        [(start, body)] = serve(host, request(key=key), settings=settings)
        assert (start["status"], body["body"][: len(UNAVAILABLE)]) == (503, UNAVAILABLE)
    assert serve(host, request(key=key), settings=settings) == [[START, BODY]]


@pytest.mark.parametrize("starts", GraceStart)
def test_the_hosts_answers_to_a_key_in_its_grace_period_say_so(
    back: Back, key: Key, settings: Settings, starts: GraceStart
) -> None:
    """Behind the host's own headers, from the rotation on; its successor and other keys are told nothing."""
    other = back.key(key.account_id)

    async def main() -> None:
        mounted = KeyledgerMiddleware(host, protect=("/api/",), settings=settings)
        async with living(mounted):
            assert await request(key=key).run(mounted) == [START, BODY]
            successor, told = await asyncio.to_thread(rotate, back, key, starts=starts)
            for _ in range(2):
                [head, body] = await request(key=key).run(mounted)
                assert (head, body) == (START | {"headers": [*START["headers"], *told]}, BODY)
            if starts is GraceStart.FIRST_USE:
                assert [name for name, _ in told] == [b"deprecation"]
            for plain in (successor, other):
                assert await request(key=plain).run(mounted) == [START, BODY]
            assert await request("/open", key=key).run(mounted) == [START, BODY]

    asyncio.run(main())


@pytest.mark.parametrize("own", [[(b"deprecation", b"@1")], [(b"Sunset", b"then")]])
def test_what_a_host_itself_says_of_an_end_is_not_said_twice(
    back: Back, key: Key, settings: Settings, own: list[tuple[bytes, bytes]]
) -> None:
    """However it is spelt, and if the host hands its headers over only once: they go out as they are, and alone."""

    async def deprecated(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send(START | {"headers": iter(own)})
        await send(BODY)

    rotate(back, key)
    [sent] = serve(deprecated, request(key=key), settings=settings)
    assert sent == [START | {"headers": own}, BODY]


def test_a_head_without_headers_gets_them(back: Back, key: Key, settings: Settings) -> None:
    """ASGI lets a host leave them out."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send({"type": "http.response.start", "status": 204})
        await send(BODY)

    _, told = rotate(back, key)
    [sent] = serve(bare, request(key=key), settings=settings)
    assert sent[0] == {"type": "http.response.start", "status": 204, "headers": told}


def test_refusals_of_a_key_in_its_grace_period_say_so_but_for_the_credential(back: Back, settings: Settings) -> None:
    """The 403 of a path and that of `require`, as at the service; a 401 tells nothing."""
    reader = back.key(back.account(), scopes=["campaigns:read"])
    _, told = rotate(back, reader)
    refused, required = request(key=reader), request("/api/other", key=reader)
    app = requiring(nothing)
    for sent in serve(app, refused, required, settings=settings, needs={"/api/x": "keys:read"}):
        assert sent[0]["status"] == 403
        assert [line for line in sent[0]["headers"] if line in told] == told
    revoke(back, reader)
    [[head, _]] = serve(app, request(key=reader), settings=settings)
    assert head["status"] == 401
    assert not {b"deprecation", b"sunset"} & dict(head["headers"]).keys()


def test_a_handshake_with_a_key_in_its_grace_period_says_so(back: Back, key: Key, settings: Settings) -> None:
    """Where the host accepts, and where it turns away with an answer of its own."""

    async def accepting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send({"type": "websocket.accept", "subprotocol": "x"})

    async def denying(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send(START | {"type": "websocket.http.response.start", "status": 409})

    _, told = rotate(back, key)
    [sent] = serve(accepting, handshake(key), settings=settings)
    assert sent == [{"type": "websocket.accept", "subprotocol": "x", "headers": told}]
    [sent] = serve(denying, handshake(key, extensions={"websocket.http.response": {}}), settings=settings)
    assert sent[0]["headers"] == [*START["headers"], *told]


@pytest.mark.parametrize("durability", ["commit", "buffered"])
def test_an_answer_is_streamed_after_its_row(
    database_and_back: HttpServer, key: Key, settings: Settings, durability: Any
) -> None:
    """The first part goes out while the host still makes the second; with `commit` its row is then on disk."""
    server = request(key=key)
    seen: list[tuple[int, int]] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send(START)
        await send(BODY | {"more_body": True})
        rows = database_and_back.rows("SELECT count(*) FROM usage.access_log")[0][0]
        seen.append((len(server.sent), rows if durability == "commit" else 1))
        await send(BODY)

    [sent] = serve(stream, server, settings=replace(settings, access_log_durability=durability))
    assert sent == [START, BODY | {"more_body": True}, BODY]
    assert seen == [(2, 1)]
    assert row(database_and_back) == (200, "ok", True)


def test_an_answer_whose_row_cannot_be_written_is_not_given(
    database_and_back: HttpServer, key: Key, settings: Settings
) -> None:
    """503 in its place; a host that would stream for ever is told that its client has gone."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send(START)
        while True:
            await send(BODY | {"more_body": True})

    with database_and_back.renamed("usage", "access_log"):
        [sent] = serve(host, request(key=key), settings=settings)
        streamed = request(key=key)
        with pytest.raises(ConnectionError):
            serve(endless, streamed, settings=settings)
    for start, body in (sent, streamed.sent):
        assert (start["status"], body["body"][: len(UNAVAILABLE)]) == (503, UNAVAILABLE)


@pytest.mark.parametrize("durability", ["commit", "buffered"])
@pytest.mark.parametrize("made", [request, handshake])
def test_a_host_that_is_cancelled_leaves_its_row(
    database_and_back: HttpServer, key: Key, settings: Settings, durability: Any, made: Callable[..., Server]
) -> None:
    """It may have acted by then: the use counts, whatever the server did with the request."""
    settings = replace(settings, access_log_durability=durability)
    is_in = asyncio.Event()

    async def acting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        is_in.set()
        await asyncio.Event().wait()

    async def main() -> None:
        mounted = KeyledgerMiddleware(acting, protect=("/api/",), settings=settings)
        async with living(mounted):
            asked = asyncio.create_task(made(key=key).run(mounted))
            await is_in.wait()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(main())
    assert row(database_and_back) == (499, "ok", True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_fault_of_our_own_the_host_is_served_again(
    database_and_back: HttpServer, key: Key, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's writer ends by a fault; requests are refused until another is open, and nothing of the old stays."""
    settings = replace(settings, access_log_durability="commit")
    written = BatchArguments.of
    faults = iter([True])

    def faulty(self: BatchArguments, *batch: Any) -> dict[str, Any]:
        if next(faults, False):
            raise NotImplementedError
        return written(self, *batch)

    monkeypatch.setattr(BatchArguments, "of", faulty)
    threads = threading.active_count()

    async def main() -> list[int]:
        statuses: list[int] = []
        mounted = KeyledgerMiddleware(host, protect=("/api/",), settings=settings)
        async with living(mounted):
            while 200 not in statuses:
                [start, _] = await request(key=key).run(mounted)
                statuses.append(start["status"])
                await asyncio.sleep(0.1)
            assert processes(database_and_back) == 1
        return statuses

    refused = asyncio.run(asyncio.wait_for(main(), DEADLINE_SECONDS))[:-1]
    assert set(refused) == {503}
    assert row(database_and_back) == (200, "ok", True)
    assert processes(database_and_back) == 0
    assert threading.active_count() == threads


@pytest.mark.parametrize("ends", ["quietly", "with an answer", "with an exception"])
@pytest.mark.parametrize("change", [True, False], ids=["revoked", "still good"])
def test_a_body_that_is_held_back_keeps_no_key_alive(
    database_and_back: HttpServer, key: Key, settings: Settings, change: bool, ends: str
) -> None:
    """A key that was revoked before the body's end: the refusal, and for the host a disconnect in place of the rest."""
    heard: list[Any] = []
    body = [{"type": "http.request", "body": part, "more_body": part == b"a"} for part in (b"a", b"b")]
    server = request(key=key, method="POST")
    server.scope["headers"].append((b"content-length", b"2"))

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        server.incoming.put_nowait(body[0])
        heard.append(await receive())
        if change:
            await asyncio.to_thread(revoke, database_and_back.back, key)
        server.incoming.put_nowait(body[1])
        heard.append(await receive())
        if not change or ends == "with an answer":
            await send(START)
            await send(BODY)
        elif ends == "with an exception":
            raise ConnectionError("the client has gone")

    [sent] = serve(reading, server, settings=settings)
    if change:
        assert heard == [body[0], {"type": "http.disconnect"}]
        assert [sent[0]["status"], sent[1]["body"], len(sent)] == [401, INVALID_KEY, 2]
        assert row(database_and_back) == (401, "revoked", False)
    else:
        assert heard == body
        assert sent == [START, BODY]
        assert row(database_and_back) == (200, "ok", True)


def test_a_host_that_fails_fails_as_it_would_alone(database_and_back: HttpServer, key: Key, settings: Settings) -> None:
    """Its exception reaches the server, which answers 500: so says the row."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        raise LookupError("mine")

    server = request(key=key)
    with pytest.raises(LookupError, match="mine"):
        serve(failing, server, settings=settings)
    assert server.sent == []
    assert row(database_and_back) == (500, "ok", True)


def requiring(answer: Callable[[Any, Exception], Any]) -> Any:
    """A host that asks for a scope, and does that when it is refused."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        try:
            require(scope, "campaigns:write")
        except ForbiddenError as error:
            await answer(send, error)

    return app


async def own_words(send: Any, _error: Exception) -> None:
    """A 404 of the host's own."""
    await send(START | {"status": 404})
    await send(BODY)


async def opaque_500(send: Any, error: Exception) -> None:
    """As a framework with an exception that nobody handled: it answers, and raises it again."""
    await send(START | {"status": 500})
    await send(BODY)
    raise error


async def nothing(_send: Any, error: Exception) -> None:
    """Lets it pass without a word."""
    raise error


@pytest.mark.parametrize("answer", [own_words, opaque_500, nothing])
def test_what_require_refuses_is_the_hosts_own_answer_or_the_403(
    database_and_back: HttpServer, back: Back, settings: Settings, answer: Callable[[Any, Exception], Any]
) -> None:
    """Whoever handles it answers as he likes; what nobody handles is the 403. The row has the reason either way."""
    reader = back.key(back.account(), scopes=["campaigns:read"])
    [sent] = serve(requiring(answer), request(key=reader), settings=settings)
    if answer is own_words:
        assert sent == [START | {"status": 404}, BODY]
        assert row(database_and_back) == (404, "insufficient_scope", False)
    else:
        assert (sent[0]["status"], sent[1]["body"], len(sent)) == (403, FORBIDDEN, 2)
        assert row(database_and_back) == (403, "insufficient_scope", False)


def test_a_scope_that_does_not_exist_is_the_hosts_mistake(key: Key, settings: Settings) -> None:
    """A misspelt scope refuses nobody by accident: ValueError, when it is asked for or the middleware is made."""
    with pytest.raises(ValueError, match="unknown scope"):
        KeyledgerMiddleware(host, needs={"/x": "campaign:read"}, settings=settings)

    async def misspelt(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        require(scope, "campaign:write")

    with pytest.raises(ValueError, match="unknown scope"):
        serve(misspelt, request(key=key), settings=settings)


def test_a_handler_on_a_path_that_is_not_protected_has_no_principal(settings: Settings) -> None:
    """It raises: nothing that asks for a principal ever runs without one."""

    async def careless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        principal_of(scope)

    with pytest.raises(LookupError):
        serve(careless, request("/open"), settings=settings)


def test_a_websocket_is_closed_where_a_server_has_no_other_denial(
    database_and_back: HttpServer, key: Key, settings: Settings
) -> None:
    """1008 before it is accepted, or 1013 when the key cannot be checked; the host never hears of it."""
    [refused] = serve(host, handshake(), settings=settings)
    assert refused == [{"type": "websocket.close", "code": 1008, "reason": ""}]

    with database_and_back.database_away():
        [refused] = serve(host, handshake(key), settings=settings)
    assert refused == [{"type": "websocket.close", "code": 1013, "reason": ""}]


def test_a_websocket_that_the_host_turns_away_is_denied_as_a_request_is(
    database_and_back: HttpServer, back: Back, settings: Settings
) -> None:
    """`require` before accepting: the 403, whether the framework closes (Litestar) or only raises (Starlette)."""
    reader = back.key(back.account(), scopes=["campaigns:read"])

    async def close(send: Any, _error: Exception) -> None:
        await send({"type": "websocket.close", "code": 4500})

    able = {"extensions": {"websocket.http.response": {}}}
    for answer in (close, nothing):
        [sent] = serve(requiring(answer), handshake(reader, **able), settings=settings)
        assert [message["type"].rpartition(".")[2] for message in sent] == ["start", "body"]
        assert (sent[0]["status"], sent[1]["body"]) == (403, FORBIDDEN)
    rows = database_and_back.rows("SELECT status, outcome FROM usage.access_log")
    assert rows == [(403, "insufficient_scope")] * 2


def test_a_websocket_that_only_speaks_ends_with_its_key(back: Back, key: Key, settings: Settings) -> None:
    """No message goes out after the revoke returned: 1008, and the host is told that its client has gone."""

    async def ticker(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await host(scope, receive, send)
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "one"})
        await asyncio.to_thread(revoke, back, key)
        await send({"type": "websocket.send", "text": "two"})

    server = handshake(key)
    with pytest.raises(ConnectionError):
        serve(ticker, server, settings=settings)
    assert [message["type"] for message in server.sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert server.sent[-1]["code"] == 1008


FORKING = """
import asyncio, os, sys
from interfaces.asgi import KeyledgerMiddleware
from interfaces.settings import Settings

async def host(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})

app = KeyledgerMiddleware(host, settings=Settings.read())

def ask():
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"authorization", sys.argv[1].encode())]}
    statuses = []
    async def send(message):
        statuses.append(message["status"])
    asyncio.run(app(scope, None, send))
    return statuses

assert ask() == [200]
child = os.fork()
if child == 0:
    assert ask() == [200]
    sys.exit()
_, status = os.waitpid(child, 0)
assert status == 0, status
assert ask() == [200]
"""


def test_the_child_of_a_fork_opens_its_own(database_and_back: HttpServer, key: Key, conninfo: str) -> None:
    """A worker forked after a first request serves with connections of its own, and takes nothing from its parent."""
    environment = {"KEYLEDGER_DATABASE_URL": conninfo, "KEYLEDGER_SECRET_KEYS": ROOT_SECRET}
    command = [sys.executable, "-c", FORKING, f"Bearer {key.secret}"]
    done = subprocess.run(command, env=environment, timeout=60, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    rows = database_and_back.rows("SELECT count(*), count(DISTINCT run_id) FROM usage.access_log")
    assert rows == [(3, 2)]
    assert processes(database_and_back) == 0
