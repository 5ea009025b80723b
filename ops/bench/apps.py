"""The applications that the bench serves; each function is a factory for granian.

`keyledger` is the service itself with four routes more, `unlogged` that without an access log; `plain` and `bare` are
what it is compared with.
"""

import os
from collections.abc import Callable
from typing import Any, Self

import bcrypt
import msgspec
from litestar import Litestar, Router, get
from litestar.types import ASGIApp, Receive, Scope, Send

from application.authentication import Need
from infrastructure.postgres.access_log import PostgresAccessLog
from interfaces.asgi import KeyledgerMiddleware
from interfaces.bootstrap import http_app, serving
from interfaces.http import app as service
from interfaces.http.gate import NEED


class Answer(msgspec.Struct):
    """What the trivial route answers; the peers answer the same bytes."""

    ok: bool = True


class Counts(msgspec.Struct):
    """How often this process has called bcrypt since it started."""

    bcrypt: int


def trivial(path: str, **options: Any) -> Any:
    """The route under test: asynchronous, from memory, with or without protection by its router."""

    @get(path, include_in_schema=False, **options)
    async def answer() -> Answer:
        return Answer()

    return answer


@get("/pid", include_in_schema=False)
async def pid() -> int:
    """Which worker answers."""
    return os.getpid()


def keyledger() -> ASGIApp:
    """The service, with `/` protected as its own routes are, `/open` the same unprotected, `/pid` and `/counts`.

    `create_app` takes no further routes, so two of the router functions that it calls give some more.
    """
    calls = _count_bcrypt()

    @get("/counts", include_in_schema=False)
    async def counts() -> Counts:
        return Counts(len(calls))

    campaigns, health = service.campaigns_router, service.health_router
    service.campaigns_router = lambda: Router("/", route_handlers=[campaigns(), trivial("/", opt={NEED: Need()})])
    service.health_router = lambda: Router("/", route_handlers=[health(), trivial("/open"), pid, counts])
    return http_app()


class _NoLog(PostgresAccessLog):
    """In the access log's place: takes each row, and drops it. The product has no such switch."""

    def __enter__(self) -> Self:
        return self  # without its writer

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, *_: object) -> None:
        """Nobody waits for it: the server is given `buffered`."""


def unlogged() -> ASGIApp:
    """As `keyledger`, of the same parts, but for the access log."""
    serving.PostgresAccessLog = _NoLog
    return keyledger()


def plain() -> ASGIApp:
    """The same route in a Litestar application that has nothing of ours."""
    return Litestar([trivial("/"), pid], openapi_config=None, logging_config=None)


def mounted() -> ASGIApp:
    """That application behind our middleware, as another service mounts it."""
    return KeyledgerMiddleware(plain(), protect=("/",))


def bare() -> ASGIApp:
    """An ASGI application that does nothing: two messages."""
    start: Any = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    body: Any = {"type": "http.response.body", "body": b""}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        await send(start)
        await send(body)

    return answer


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        answer: Any = {"type": f"{message['type']}.complete"}
        await send(answer)
        if message["type"] == "lifespan.shutdown":
            return


def _count_bcrypt() -> list[None]:
    """One entry for each call that checks a credential with bcrypt, from now on."""
    calls: list[None] = []
    check: Callable[[bytes, bytes], bool] = bcrypt.checkpw

    def counted(password: bytes, hashed_password: bytes) -> bool:
        calls.append(None)
        return check(password, hashed_password)

    bcrypt.checkpw = counted
    return calls
