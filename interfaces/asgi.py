"""The authenticator as ASGI middleware, for another Python service that checks keys in its own process.

    from interfaces.asgi import KeyledgerMiddleware, principal_of, require

    app = KeyledgerMiddleware(app, protect=("/api/",), needs={"/api/reports": "campaigns:read"})

It is the whole authentication of a serving process, with the same guarantee: a revoke, wherever it was made, waits for
this process too, and without a valid lease protected paths answer 503. Refusals are byte for byte those of the service;
each request to a protected path leaves one access row, before its answer (`KEYLEDGER_ACCESS_LOG_DURABILITY`).

- It wraps the host's application from outside; only what needs no key itself (CORS) goes around it. asyncio only.
- A prefix covers its path and all below it. Paths are read in each way in which frameworks are known to read them
  (repeated slashes, dots, `root_path`), and are protected when one reading is.
- The host's answers go out as they are, streamed ones too; its request bodies are not touched.
- To a key in its grace period they also say so: `Deprecation` and `Sunset` as the service's answers have them, unless
  the host has set either itself. An accepted handshake has them too, where the server sends its headers (granian 2.8
  does not).
- WebSockets are refused before they are accepted: with the same answer where the server can deny a handshake with one,
  by a close otherwise. An open one is asked about its key at each message, in both directions: when the key is not
  accepted any more it is closed with 1008, when that cannot be told with 1013. A handshake counts as one use.
- The database is the service's, migrated by it: `KEYLEDGER_DATABASE_URL` and `KEYLEDGER_SECRET_KEYS` are required.
- Nothing opens at import. A process opens its own connections and threads at ASGI lifespan startup, or without lifespan
  at its first protected request, and closes them at lifespan shutdown or exit. The child of a fork opens its own again;
  fork while no request is in flight. After a fault of our own, which refuses whatever comes, it opens them anew.
- It says little, and through structlog as the host has configured it.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.util import Finalize
from threading import Event, Lock
from typing import cast

import structlog
from litestar.types import Scope

from interfaces.bootstrap import OpenGate, open_core, open_database, open_gate
from interfaces.http.protected import ProtectedPaths
from interfaces.http.request import client_of, counted_of, credential_of
from interfaces.http.visit import (
    SCOPE_KEY,
    AsgiApp,
    AsgiMessage,
    AsgiReceive,
    AsgiScope,
    AsgiSend,
    Principal,
    Visit,
    principal_of,
    require,
    serve_http,
    serve_websocket,
)
from interfaces.settings import SettingError, Settings

__all__ = ["SCOPE_KEY", "KeyledgerMiddleware", "Principal", "principal_of", "require"]

FRESH_POLL_SECONDS = 0.005
REOPEN_SECONDS = 1.0
"""Between two openings: a fault that comes again at once must not have each request open connections and threads."""

log = structlog.get_logger()


class KeyledgerMiddleware:
    """Lets requests to protected paths through with an accepted key, and all others untouched.

    ``protect``: path prefixes; everything by default. ``needs``: by prefix the scope that a key must have there; the
    longest prefix counts. ``settings``: None reads the environment. ValueError for prefixes or scopes that cannot be
    meant, SettingError for settings.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        protect: Sequence[str] = ("/",),
        needs: Mapping[str, str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._app = app
        self._paths = ProtectedPaths(protect, needs or {})
        self._settings = settings or Settings.read()
        if self._settings.database_url is None or not self._settings.secret_keys:
            raise SettingError("KEYLEDGER_DATABASE_URL and KEYLEDGER_SECRET_KEYS must be set: those of the service")
        self._process = _Process(self._settings)

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """One connection, or the host's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        serve = _SERVE.get(scope["type"])
        need = None if serve is None else self._paths.need(scope["path"], scope.get("root_path") or "")
        if serve is None or need is None:
            await self._app(scope, receive, send)
            return
        gate = await self._process.gate()
        asked = cast("Scope", scope)
        client = client_of(asked, self._settings.trusted_proxies) if scope.get("client") else None
        visit = Visit(
            keeper=gate.keeper,
            need=need,
            method=scope.get("method", "GET"),  # the method of a WebSocket's handshake
            endpoint=scope["path"],
            raw=credential_of(asked),
            client=client,
            counted=counted_of(asked, client),
            request_id=gate.new_request_id(),
        )
        await serve(self._app, visit, scope, receive, send)

    async def _live(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Opens before the host starts, closes after it has stopped; also for a host that knows no lifespan."""
        waiting = [await receive()]  # lifespan.startup
        try:
            await self._process.gate()
        except SettingError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        answered = False

        async def replay() -> AsgiMessage:
            return waiting.pop() if waiting else await receive()

        async def pass_on(message: AsgiMessage) -> None:
            nonlocal answered
            answered = True
            if message["type"] != "lifespan.startup.complete":
                await asyncio.to_thread(self._process.close)
            await send(message)

        try:
            await self._app(scope, replay, pass_on)
        except Exception:
            # ASGI (lifespan, "Scope"): an application that raises before it answers does not know the protocol.
            if answered:
                raise
        if not answered:  # Django refuses the scope, other hosts ignore it: the lifespan is ours alone
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            await asyncio.to_thread(self._process.close)
            await send({"type": "lifespan.shutdown.complete"})


_SERVE = {"http": serve_http, "websocket": serve_websocket}


@dataclass(frozen=True, slots=True)
class _Opened:
    gate: OpenGate
    stack: ExitStack
    at_exit: Finalize
    process: int
    fault: Event
    """Set when its access log has ended by a fault of our own: whatever comes is refused from then on."""
    at: float

    @property
    def serves(self) -> bool:
        """Whether this process, and no parent of it, is to go on with it."""
        is_over = self.fault.is_set() and time.monotonic() >= self.at + REOPEN_SECONDS
        return self.process == os.getpid() and not is_over


class _Process:
    """What this process has open: once, whoever asks first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._opened: _Opened | None = None
        self._parents: list[_Opened] = []  # never closed nor collected here: their connections are the parent's

    async def gate(self) -> OpenGate:
        """The open gate; SettingError when it cannot be."""
        opened = self._opened
        if opened is None or not opened.serves:
            opened = await asyncio.to_thread(self._open)
        return opened.gate

    def close(self) -> None:
        """Writes what is queued and gives back the lease; the next request would open again."""
        with self._lock:
            opened = self._opened
            if opened is not None and opened.process == os.getpid():
                self._close(opened)

    def _open(self) -> _Opened:
        with self._lock:
            opened = self._opened
            if opened is not None and opened.serves:
                return opened
            if opened is not None and opened.process == os.getpid():
                log.warning("keyledger_opens_again")
                self._close(opened)
            elif opened is not None:
                self._parents.append(opened)
            with ExitStack() as stack:
                fault = Event()
                conninfo, _ = open_database(self._settings, stack)
                gate = open_gate(open_core(self._settings, conninfo, stack), stack, on_fault=fault.set)
                self._await_lease(gate)
                # Not `atexit`: servers' workers are children of multiprocessing, which end without it.
                at_exit = Finalize(None, self.close, exitpriority=0)
                self._opened = opened = _Opened(gate, stack.pop_all(), at_exit, os.getpid(), fault, time.monotonic())
            return opened

    def _close(self, opened: _Opened) -> None:
        self._opened = None
        opened.at_exit.cancel()
        opened.stack.close()

    def _await_lease(self, gate: OpenGate) -> None:
        """Until keys can be checked, so that the first request is; without a database for a lease, then it is 503."""
        deadline = time.monotonic() + self._settings.lease.seconds
        while not gate.verified.is_fresh:
            if time.monotonic() > deadline:
                log.warning("keyledger_waits_for_database")
                return
            time.sleep(FRESH_POLL_SECONDS)  # before this process has answered anybody
