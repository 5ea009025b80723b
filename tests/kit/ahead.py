"""An application for granian, one part of which answers ahead of its event loop."""

import asyncio
from collections.abc import Callable
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from interfaces.http.ahead import answer_ahead


class Ahead:
    """Answers ``/ahead`` at once and ``/later`` in the event loop, fails at ``/fault``, and leaves the rest."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keeps the loop."""
        self._loop = loop

    def answer(self, scope: Scope, send: Callable[[Any], object]) -> bool:
        """Whether it is one of its own paths."""
        asked: Any = scope
        if asked["path"] == "/fault":
            raise RuntimeError("a fault of its own")
        if asked["path"] == "/later" and self._loop is not None:
            self._loop.call_soon_threadsafe(_say, send, "later")
        elif asked["path"] == "/ahead":
            _say(send, "ahead")
        else:
            return False
        return True


def app() -> ASGIApp:
    """What granian is told to serve; whatever comes to it was left by the other."""
    answer_ahead(Ahead())

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        start: Any = {"type": "http.response.start", "status": 200, "headers": []}
        body: Any = {"type": "http.response.body", "body": b"the loop"}
        await send(start)
        await send(body)

    return answer


def _say(send: Callable[[Any], object], word: str) -> None:
    send({"type": "http.response.start", "status": 200, "headers": [(b"x-said", word.encode())]})
    send({"type": "http.response.body", "body": word.encode()})
