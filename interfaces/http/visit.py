"""A request or a WebSocket handshake at a protected path of a host: let in with its principal, or answered here.

The host's answer is held until its status is known and its access row left, and then goes out as the host makes it.
To a key in its grace period its head also says so, as every answer of the service does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, cast

from application.authentication import Authentication, Need
from domain.access import Address, Scope
from domain.errors import ForbiddenError, KeyledgerError, RateLimitedError, UnavailableError
from domain.verdict import KeyFacts, Verdict
from interfaces.http.body import announces_body
from interfaces.http.errors import RenderedError, render
from interfaces.http.gate import Gatekeeper
from interfaces.http.grace import grace_headers

SCOPE_KEY = "keyledger"
POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1
TRY_AGAIN_LATER = 1013  # IANA's registry of WebSocket close codes
CLIENT_CLOSED_REQUEST = 499  # nginx's; no RFC has one for an answer that was not given

# Frameworks each have their own types for scopes and messages.
AsgiScope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

_GRACE_NAMES = frozenset({b"deprecation", b"sunset"})
_NOT_YET = Authentication(Verdict.MISSING)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whose key a request carries; in ``scope["keyledger"]`` behind the middleware."""

    facts: KeyFacts = field(repr=False)
    request_id: str
    """The request's name in the access log."""
    refused: list[ForbiddenError] = field(default_factory=list[ForbiddenError], repr=False, compare=False)
    """What `require` has said no to; the middleware reads it."""

    @property
    def key_id(self) -> str:
        """`key_…`."""
        return self.facts.key_id

    @property
    def account_id(self) -> str:
        """`acc_…`, the key's owner."""
        return self.facts.account_id

    @property
    def environment(self) -> str:
        """`live`, `staging` or `dev`."""
        return self.facts.environment

    @property
    def scopes(self) -> list[str] | None:
        """What the key is held to, sorted; None is full access."""
        return None if self.facts.scopes is None else self.facts.scopes.to_list()

    def allows(self, scope: str) -> bool:
        """Whether the key has the scope; ValueError for one that does not exist."""
        asked = Scope.parse(scope)
        return self.facts.scopes is None or self.facts.scopes.allows(asked)


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """The principal of a request; LookupError on a path that is not protected, so that no handler runs by mistake."""
    principal: Principal | None = scope.get(SCOPE_KEY)
    if principal is None:
        raise LookupError("this path is not protected by KeyledgerMiddleware")
    return principal


def require(scope: Mapping[str, Any], needed: str) -> Principal:
    """The principal, when its key has the scope ``needed``; ForbiddenError otherwise.

    A handler lets it pass: what the framework makes of an exception that nobody handled (500) becomes the service's own
    403. An answer that the host gives to it by itself stays.
    """
    principal = principal_of(scope)
    if not principal.allows(needed):
        refusal = ForbiddenError(scope=needed)
        principal.refused.append(refusal)
        raise refusal
    return principal


@dataclass(slots=True)
class Visit:
    """What is known of one request or handshake; ``principal`` is None until it is let in."""

    keeper: Gatekeeper
    need: Need
    method: str
    endpoint: str
    raw: bytes | None
    client: Address | None
    counted: Address | None
    """Whom a failed attempt counts against."""
    request_id: str
    authentication: Authentication = _NOT_YET
    principal: Principal | None = None

    async def enter(self) -> RenderedError | None:
        """The answer to who may not come in, its access row left; None lets in, and the row comes with the answer."""
        try:
            if await self.is_accepted() and self.authentication.facts is not None:
                self.principal = Principal(self.authentication.facts, self.request_id)
                return None
            refusal = await self.keeper.refuse(self.authentication, need=self.need, client=self.counted)
            answer = self._rendered(refusal)
            if isinstance(refusal, RateLimitedError):
                # A flood leaves no row for each of its attempts.
                await self.keeper.brake.hold()
            else:
                await self._log(answer.status)
        except UnavailableError as error:
            return self._rendered(error)
        return answer

    async def stay(self) -> RenderedError | None:
        """As `enter`, for who was let in and has sent the rest of the request since."""
        principal = self.principal
        answer = await self.enter()
        if answer is None:
            self.principal = principal  # what the host holds and `require` writes to
        return answer

    async def is_accepted(self) -> bool:
        """Whether the key is accepted now; UnavailableError when it cannot be told."""
        self.authentication = await self.keeper.authenticate(self.raw, need=self.need, client=self.client)
        return self.authentication.verdict is Verdict.OK

    async def leave(self, status: int) -> RenderedError | None:
        """Leaves the access row of the host's answer; gives what to answer in its place, None to let it go out."""
        answer = None
        if self.principal and self.principal.refused and status >= HTTPStatus.BAD_REQUEST:
            self.authentication = self.authentication._replace(verdict=Verdict.INSUFFICIENT_SCOPE)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                answer = self._rendered(self.principal.refused[-1])
        try:
            await self._log(status if answer is None else answer.status)
        except UnavailableError as error:
            return self._rendered(error)
        return answer

    def with_grace(self, head: AsgiMessage) -> AsgiMessage:
        """The head of the host's answer, which to a key in its grace period says so.

        A host that has either header of its own keeps what it says: theirs and ours together may contradict each other.
        """
        told = self._grace()
        if not told:
            return head
        own: list[tuple[bytes, bytes]] = list(head.get("headers") or ())
        if any(name.lower() in _GRACE_NAMES for name, _ in own):
            return {**head, "headers": own}
        return {**head, "headers": [*own, *told]}

    @property
    def is_refused(self) -> bool:
        """Whether `require` has said no."""
        return self.principal is not None and bool(self.principal.refused)

    def has_caused(self, error: Exception) -> bool:
        """Whether the host only passes on what `require` raised."""
        return self.principal is not None and any(error is refusal for refusal in self.principal.refused)

    def abandon(self) -> None:
        """Leaves the access row of a request that was broken off after the host was let run; nobody waits for it."""
        with suppress(UnavailableError):
            committed = self._row(CLIENT_CLOSED_REQUEST)
            if committed is not None:
                committed.add_done_callback(_hear)

    async def _log(self, status: int) -> None:
        committed = self._row(status)
        if committed is not None:
            await committed

    def _row(self, status: int) -> "asyncio.Future[None] | None":
        return self.keeper.log(
            self.authentication,
            method=self.method,
            endpoint=self.endpoint,
            status=status,
            client_ip=self.keeper.address_text(self.client),
            request_id=self.request_id,
        )

    def _rendered(self, error: KeyledgerError) -> RenderedError:
        answer = render(error, token_sent=self.raw is not None)
        told = self._grace() if isinstance(error, ForbiddenError) else []
        return replace(answer, headers=(*answer.headers, *told, (b"x-request-id", self.request_id.encode())))

    def _grace(self) -> list[tuple[bytes, bytes]]:
        facts = self.authentication.facts
        return [] if facts is None else grace_headers(facts)


async def serve_http(app: AsgiApp, visit: Visit, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
    """One request. What the host raises goes on to the server, as without us."""
    answer = await visit.enter()
    if answer is not None:
        await answer(scope, receive, send)
        return
    scope[SCOPE_KEY] = visit.principal
    response = _Response(visit, scope, receive, send)
    try:
        await app(scope, response.receive if _may_have_body(scope) else receive, response.send)
    except asyncio.CancelledError:
        response.abandon()
        raise
    except Exception as error:
        await response.end()
        if not (response.is_cut_off or visit.has_caused(error)):
            raise
    else:
        await response.end()


async def serve_websocket(app: AsgiApp, visit: Visit, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
    """One connection, from its handshake to its end."""
    answer = await visit.enter()
    if answer is not None:
        await receive()  # websocket.connect
        await _deny(answer, scope, send)
        return
    scope[SCOPE_KEY] = visit.principal
    socket = _Socket(visit, scope, receive, send)
    try:
        await app(scope, socket.receive, socket.send)
    except asyncio.CancelledError:
        socket.abandon()
        raise
    except Exception as error:
        await socket.end_handshake()
        if not visit.has_caused(error):
            raise
    else:
        await socket.end_handshake()


class _Response:
    """What a host answers with: its first message waits for the access row."""

    def __init__(self, visit: Visit, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        self._visit = visit
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_answered = False
        self._is_replaced = False
        self.is_cut_off = False
        """Whether the host was told that the client has gone."""

    async def receive(self) -> AsgiMessage:
        """The next piece of the body.

        The key is judged again behind the last one: whoever holds it back may have been revoked meanwhile. Then the
        client gets the refusal, and the host a disconnect in place of the rest.
        """
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body") and not self._is_answered:
            instead = await self._visit.stay()
            if instead is not None:
                self.is_cut_off = self._is_answered = self._is_replaced = True
                await instead(self._scope, self._receive, self._send)
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: AsgiMessage) -> None:
        """Passes it on, or drops it when another answer went out in its place."""
        if message["type"] == "http.response.start" and not self._is_answered:
            await self._leave(message["status"])
            message = self._visit.with_grace(message)
        if not self._is_replaced:
            await self._send(message)
        elif message.get("more_body"):
            raise ConnectionError("another answer was given")  # as if the client had gone: a stream must end

    async def end(self) -> None:
        """For a host that has ended without an answer: the server answers 500."""
        if not self._is_answered:
            await self._leave(HTTPStatus.INTERNAL_SERVER_ERROR)

    def abandon(self) -> None:
        """For a host that was cancelled, as servers do at a time limit or when the client has gone."""
        if not self._is_answered:
            self._is_answered = True
            self._visit.abandon()

    async def _leave(self, status: int) -> None:
        self._is_answered = True
        instead = await self._visit.leave(status)
        if instead is not None:
            self._is_replaced = True
            await instead(self._scope, self._receive, self._send)


class _Socket:
    """What a host reads from and writes to; each message is asked whether the key is still accepted."""

    def __init__(self, visit: Visit, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        self._visit = visit
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_answered = False
        self._closed_with: int | None = None

    async def receive(self) -> AsgiMessage:
        """The next message; a disconnect when the key is not accepted any more."""
        message: AsgiMessage = {}
        if self._closed_with is None:
            message = await self._receive()
            if message["type"] != "websocket.receive" or await self._is_good():
                return message
        return {"type": "websocket.disconnect", "code": self._closed_with, "reason": None}

    async def send(self, message: AsgiMessage) -> None:
        """Passes it on; ConnectionError, as after any disconnect, when the key is not accepted any more."""
        kind = message["type"]
        if not self._is_answered and kind == "websocket.accept":
            await self._leave(HTTPStatus.SWITCHING_PROTOCOLS)
            message = self._visit.with_grace(message)
        elif not self._is_answered and kind == "websocket.close":
            await self._leave(HTTPStatus.FORBIDDEN)
        elif not self._is_answered and kind == "websocket.http.response.start":
            await self._leave(message["status"])
            message = self._visit.with_grace(message)
        if kind == "websocket.send" and not (self._closed_with is None and await self._is_good()):
            raise ConnectionError("the connection was closed")
        if self._closed_with is None:
            await self._send(message)

    async def end_handshake(self) -> None:
        """For a host that has ended without an answer."""
        if not self._is_answered:
            await self._leave(HTTPStatus.INTERNAL_SERVER_ERROR)

    def abandon(self) -> None:
        """For a host that was cancelled during the handshake."""
        if not self._is_answered:
            self._is_answered = True
            self._visit.abandon()

    async def _leave(self, status: int) -> None:
        self._is_answered = True
        if self._visit.is_refused and status != HTTPStatus.SWITCHING_PROTOCOLS:
            status = HTTPStatus.INTERNAL_SERVER_ERROR  # frameworks close when nobody handled what `require` raised
        instead = await self._visit.leave(status)
        if instead is not None:
            self._closed_with = _close_code(instead)
            await _deny(instead, self._scope, self._send)

    async def _is_good(self) -> bool:
        try:
            code = None if await self._visit.is_accepted() else POLICY_VIOLATION
        except UnavailableError:
            code = TRY_AGAIN_LATER
        if code is not None and self._closed_with is None:
            self._closed_with = code
            await self._send({"type": "websocket.close", "code": code, "reason": ""})
        return self._closed_with is None


def _hear(row: "asyncio.Future[None]") -> None:
    if not row.cancelled():
        row.exception()  # the log's writer has said why


def _may_have_body(scope: AsgiScope) -> bool:
    return "http_version" not in scope or announces_body(cast("Any", scope))


async def _deny(answer: RenderedError, scope: AsgiScope, send: AsgiSend) -> None:
    """Ends a handshake: with the answer where the server can (ASGI, Websocket Denial Response), else with a code."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": _close_code(answer), "reason": ""})
        return
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": "websocket.http.response.body", "body": answer.body})


def _close_code(answer: RenderedError) -> int:
    return TRY_AGAIN_LATER if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else POLICY_VIOLATION
