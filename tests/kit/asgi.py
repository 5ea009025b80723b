"""The server's side of ASGI, for tests of what an application sends and is told, message by message."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.kit.http_server import Key


@dataclass(slots=True)
class Server:
    """The server's side of one connection: hands the host messages, and keeps what it sends."""

    scope: dict[str, Any]
    incoming: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    sent: list[Any] = field(default_factory=list)
    has_sent: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        return await self.incoming.get()

    async def send(self, message: Any) -> None:
        """Takes one."""
        self.sent.append(message)
        self.has_sent.set()

    async def run(self, app: Any, *incoming: dict[str, Any]) -> list[Any]:
        """Everything that the application sends, when that is what it is told."""
        for message in incoming:
            self.incoming.put_nowait(message)
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            self.has_sent.set()
        return self.sent


def scope_of(kind: str, path: str, key: Key | None, **more: Any) -> dict[str, Any]:
    """A scope as servers make it."""
    headers = [] if key is None else [(b"authorization", b"Bearer " + key.secret.encode())]
    method = {"method": "GET"} if kind == "http" else {}
    return {
        "type": kind,
        "http_version": "1.1",
        "path": path,
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.1", 1),
        **method,
    } | more


def request(path: str = "/api/x", key: Key | None = None, **more: Any) -> Server:
    """A request, its body all there."""
    return Server(scope_of("http", path, key, **more))


def handshake(key: Key | None = None, **more: Any) -> Server:
    """A WebSocket that wants to be opened, at a server that can deny it in no other way than by closing."""
    server = Server(scope_of("websocket", "/api/live", key, **more))
    server.incoming.put_nowait({"type": "websocket.connect"})
    return server


@asynccontextmanager
async def living(app: Any) -> AsyncIterator[Server]:
    """The application's lifespan around the block, as a server runs it."""
    server = Server({"type": "lifespan", "state": {}})
    life = asyncio.create_task(server.run(app, {"type": "lifespan.startup"}))
    await server.has_sent.wait()
    assert [message["type"] for message in server.sent] == ["lifespan.startup.complete"], server.sent
    try:
        yield server
    finally:
        server.incoming.put_nowait({"type": "lifespan.shutdown"})
        await life
    assert server.sent[-1] == {"type": "lifespan.shutdown.complete"}
