"""The gate: authenticates a request, refuses it or lets it through, and leaves one access row.

With `commit` durability nothing of an answer is sent before its row is committed; when it cannot be, the answer is 503.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from application.attempts import AttemptLimiter
from application.authentication import Authentication, Authenticator, Need
from application.ports import Clock
from application.usage_ports import AccessKind, AccessLog
from domain.access import Address
from domain.credential import Environment, without_secrets
from domain.errors import ForbiddenError, KeyledgerError, RateLimitedError, UnauthenticatedError, UnavailableError
from domain.ids import AccountId, KeyId
from domain.verdict import Verdict
from interfaces.http.errors import render
from interfaces.http.grace import grace_headers
from interfaces.http.request import AddressText, RequestRecord, credential_of, record_of

NEED = "need"
ENDPOINT_CHARACTERS_MAX = 512
KINDS_MAX = 10_000
ROWS_BEHIND_MAX = 2_000
PATIENCE_SECONDS = 2.0

Deliver = Callable[[Sequence[Any], UnavailableError | None], None]
"""Told once for a batch of rows: its waiters, and None when they are committed, or why not."""


class Brake:
    """Holds the answers of a client network that is over its limit of failed attempts, each for a tenth of a second.

    Whoever sends forged keys as fast as answers come back gets ten a second on each connection, and leaves the process
    to the others; nobody waits behind a held answer. At most 1,000 are held at a time, the others go at once.
    """

    def __init__(self, *, seconds: float = 0.1, held_max: int = 1_000) -> None:
        self._seconds = seconds
        self._held_max = held_max
        self._held = 0

    async def hold(self) -> None:
        """Returns when the answer may go."""
        if self._held >= self._held_max:
            return
        self._held += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self._held -= 1


class AccessKinds:
    """The kinds of access rows that were made of late: most requests are like one before."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Any, ...], AccessKind] = {}

    def of(
        self, authentication: Authentication, method: str, endpoint: str, status: int, client_ip: str | None
    ) -> AccessKind:
        """The kind of a request; ``client_ip`` as it is logged."""
        asked = (authentication.key_hash, authentication.verdict, method, endpoint, status, client_ip)
        kind = self._kinds.get(asked)
        if kind is None:
            kind = AccessKind(
                method,
                # People put keys into addresses. Cut afterwards: a cut key might not be known as one.
                without_secrets(endpoint)[:ENDPOINT_CHARACTERS_MAX],
                status,
                authentication.verdict,
                authentication.verdict is Verdict.OK,
                authentication.key_id,
                authentication.account_id,
                authentication.key_hash,
                client_ip,
            )
            if kind.endpoint == endpoint and authentication.facts is not None:
                # Of a key that is known alone: what anybody can make up is not remembered.
                self._remember(asked, kind)
        return kind

    def _remember(self, asked: tuple[Any, ...], kind: AccessKind) -> None:
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[asked] = kind


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """Authenticates, limits and logs; the part of the gate that every protected door shares."""

    authenticator: Authenticator
    limiter: AttemptLimiter
    access_log: AccessLog
    awaits_commit: bool
    """Whether an answer waits for its access row's commit."""
    clock: Clock
    address_text: AddressText
    """How a client's address is logged."""
    threads: Executor
    """Where keys are looked up that are not in memory."""
    limiter_threads: Executor
    """Apart from the look-ups: a flood of forged keys must not stand in the way of good ones."""
    foreign_threads: Executor
    """Where credentials are looked up that do not bear our tag and may be imported keys; apart for the same reason."""
    kinds: AccessKinds = field(default_factory=AccessKinds)
    brake: Brake = field(default_factory=Brake)

    async def look_up(
        self, raw: bytes, *, need: Need, client: Address | None, environment: Environment | None = None
    ) -> Authentication:
        """The verdict from the database."""
        look_up = partial(self.authenticator.look_up, raw, need=need, client=client, environment=environment)
        threads = self.threads if self.authenticator.is_ours(raw) else self.foreign_threads
        return await asyncio.get_running_loop().run_in_executor(threads, look_up)

    async def authenticate(
        self, raw: bytes | None, *, need: Need, client: Address | None, environment: Environment | None = None
    ) -> Authentication:
        """The verdict on a credential, from memory where it is there; UnavailableError when it cannot be proven."""
        remembered = self.authenticator.recall(raw, need=need, client=client, environment=environment)
        if remembered is not None or raw is None:
            return remembered or Authentication(Verdict.MISSING)
        return await self.look_up(raw, need=need, client=client, environment=environment)

    async def owner_of(self, key_id: KeyId) -> AccountId | None:
        """Whose key bears that id, proven or not; None: nobody's."""
        look_up = partial(self.authenticator.owner_of, key_id)
        return await asyncio.get_running_loop().run_in_executor(self.limiter_threads, look_up)

    async def refuse(
        self,
        authentication: Authentication,
        *,
        need: Need,
        client: Address | None,
        told_by: AccountId | None = None,
    ) -> KeyledgerError:
        """What the caller of a verdict other than OK is told; of a refused credential never the reason.

        A refused credential counts against its client network, and over the limit the answer is RateLimitedError.
        ``told_by``: the account whose service names the client; None: we see it.
        """
        verdict = authentication.verdict
        if not verdict.is_credential_refusal:
            return ForbiddenError(scope=need.scope if verdict is Verdict.INSUFFICIENT_SCOPE else None)
        if verdict is not Verdict.MISSING:
            wait = self.limiter.blocked_for(client, told_by)
            if wait is None and client is not None:
                count = partial(self.limiter.count, client, told_by)
                wait = await asyncio.get_running_loop().run_in_executor(self.limiter_threads, count)
            if wait is not None:
                return RateLimitedError(wait)
        return UnauthenticatedError()

    def log(  # noqa: PLR0913 - a row's columns
        self,
        authentication: Authentication,
        *,
        method: str,
        endpoint: str,
        status: int,
        client_ip: str | None,
        request_id: str,
    ) -> "asyncio.Future[None] | None":
        """Leaves the access row, ``client_ip`` as it is logged.

        With `commit` durability it answers what is to be awaited before anything is sent.

        UnavailableError, here or when awaited, when the row cannot be left.
        """
        kind = self.kinds.of(authentication, method, endpoint, status, client_ip)
        return self.leave(kind, self.clock.now(), request_id)

    def leave(self, kind: AccessKind, occurred_at: datetime, request_id: str) -> "asyncio.Future[None] | None":
        """As ``log``, for a row whose kind is known.

        With `buffered` an answer waits while the writer is behind, for its next batch, and its row with it: so a writer
        that cannot keep up slows its callers down, in place of filling its queue until it refuses them.
        """
        if self.awaits_commit:
            loop = asyncio.get_running_loop()
            committed: asyncio.Future[None] = loop.create_future()
            self.access_log.submit(kind, occurred_at, request_id, committed, _deliver_to(loop))
            return committed
        log = self.access_log
        if log.queued() <= ROWS_BEHIND_MAX:
            log.submit(kind, occurred_at, request_id, None, nobody_waits)
            return None
        loop = asyncio.get_running_loop()
        batch: asyncio.Future[None] = loop.create_future()
        log.await_batch(batch, _deliver_to(loop))
        return asyncio.ensure_future(self._leave_after(batch, kind, occurred_at, request_id))

    async def _leave_after(
        self, batch: "asyncio.Future[None]", kind: AccessKind, occurred_at: datetime, request_id: str
    ) -> None:
        try:
            await asyncio.wait_for(batch, PATIENCE_SECONDS)
        except TimeoutError as error:
            kind = kind._replace(status=int(HTTPStatus.SERVICE_UNAVAILABLE))
            raise UnavailableError("The access log cannot keep up") from error
        finally:  # also of a client that has gone meanwhile; there is room for it
            self.access_log.submit(kind, occurred_at, request_id, None, nobody_waits)


class Gate:
    """ASGI middleware of the protected routers; the route's ``opt["need"]`` says what a key must be allowed."""

    def __init__(self, app: ASGIApp, *, keeper: Gatekeeper) -> None:
        self._app = app
        self._keeper = keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request to a protected route."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        raw = credential_of(scope)
        asked: Any = scope
        options: dict[str, Any] = asked["route_handler"].opt
        if NEED not in options and asked["method"] == "OPTIONS":
            # The framework's own answer to "which methods": it says nothing of any account, and asks for no key.
            await self._app(scope, receive, send)
            return
        need: Need = options[NEED]
        keeper = self._keeper
        held: list[Any] = []

        async def hold(message: Message) -> None:
            held.append(message)

        try:
            authentication = keeper.authenticator.recall(raw, need=need, client=record.client)
            if authentication is None:
                authentication = await keeper.authenticate(raw, need=need, client=record.client)
            record.authentication = authentication
            if authentication.verdict is Verdict.OK:
                record.judge_again = partial(self._judge_again, raw, need, record)
                await self._app(scope, receive, hold)
                authentication = record.authentication
            else:
                refusal = await keeper.refuse(authentication, need=need, client=record.counted)
                if isinstance(refusal, RateLimitedError):
                    # A flood leaves no row for each of its attempts.
                    await keeper.brake.hold()
                    await render(refusal, token_sent=True)(scope, receive, send)
                    return
                await render(refusal, token_sent=raw is not None)(scope, receive, hold)
            status: int = held[0]["status"] if held else HTTPStatus.INTERNAL_SERVER_ERROR
            _tell_of_grace(held, authentication)
            row = keeper.log(
                authentication,
                method=record.method,
                endpoint=asked["path"],
                status=status,
                client_ip=record.client_ip,
                request_id=record.request_id,
            )
            committed = _both(record.beside, row)
            if committed is not None:
                await committed
        except UnavailableError as error:
            await render(error, token_sent=raw is not None)(scope, receive, send)
            return
        for message in held:
            await send(message)

    async def _judge_again(self, raw: bytes | None, need: Need, record: RequestRecord) -> None:
        again = await self._keeper.authenticate(raw, need=need, client=record.client)
        record.authentication = again
        if again.verdict is not Verdict.OK:
            raise await self._keeper.refuse(again, need=need, client=record.counted)


def _tell_of_grace(held: list[Any], authentication: Authentication) -> None:
    facts = authentication.facts
    if facts is not None and facts.replaced_by and held and not authentication.verdict.is_credential_refusal:
        held[0]["headers"] = [*held[0]["headers"], *grace_headers(facts)]


def _both(one: Awaitable[None] | None, other: Awaitable[None] | None) -> Awaitable[object] | None:
    """One wait for two rows, which one commit can have written."""
    if one is None or other is None:
        return one or other
    return asyncio.gather(one, other)


def told_in(loop: asyncio.AbstractEventLoop, tell: Deliver) -> Deliver:
    """Has ``tell`` called in the event loop: one wake-up for a whole batch of waiters, not one for each."""

    def deliver(waiters: Sequence[Any], error: UnavailableError | None) -> None:
        with suppress(RuntimeError):  # a loop that has closed has no waiters
            loop.call_soon_threadsafe(tell, waiters, error)

    return deliver


@lru_cache(maxsize=8)
def _deliver_to(loop: asyncio.AbstractEventLoop) -> Deliver:
    # The same object each time: rows are told of together when they are to be told in the same way.
    return told_in(loop, _resolve)


def _resolve(waiters: Sequence["asyncio.Future[None]"], error: UnavailableError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # the client has gone
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def nobody_waits(waiters: Sequence[Any], error: UnavailableError | None) -> None:
    """Tells nobody of a batch."""
    del waiters, error
