"""The gate in front of protected routes: authenticates, answers or lets through, and leaves one access row.

With `commit` durability nothing of an answer is sent before its row is committed; when it cannot be, the answer is 503.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from application.authentication import Authentication, Authenticator, Need
from application.ports import AccessLog, AccessRow, Clock
from domain.errors import ForbiddenError, KeyledgerError, UnauthenticatedError, UnavailableError
from domain.verdict import Verdict
from interfaces.http.errors import render
from interfaces.http.request import RequestRecord, credential_of, record_of

NEED = "need"
ENDPOINT_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """What the gate works with."""

    authenticator: Authenticator
    access_log: AccessLog
    awaits_commit: bool
    """Whether an answer waits for its access row's commit."""
    clock: Clock
    threads: Executor


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
        need: Need = cast("dict[str, Any]", scope)["route_handler"].opt[NEED]
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        try:
            record.authentication = authentication = await self._authenticate(raw, need, record)
            refusal = refusal_of(authentication, need)
            if refusal is None:
                await self._app(scope, receive, hold)
            else:
                await render(refusal, token_sent=raw is not None)(scope, receive, hold)
            await self._write_row(scope, record, authentication, _status(held))
        except UnavailableError as error:
            await render(error, token_sent=raw is not None)(scope, receive, send)
            return
        for message in held:
            await send(message)

    async def _authenticate(self, raw: bytes | None, need: Need, record: RequestRecord) -> Authentication:
        keeper = self._keeper
        remembered = keeper.authenticator.recall(raw, need=need, client=record.client)
        if remembered is not None or raw is None:
            return remembered or Authentication(Verdict.MISSING)
        look_up = partial(keeper.authenticator.look_up, raw, need=need, client=record.client)
        return await asyncio.get_running_loop().run_in_executor(keeper.threads, look_up)

    async def _write_row(
        self, scope: Scope, record: RequestRecord, authentication: Authentication, status: int
    ) -> None:
        row = AccessRow(
            occurred_at=self._keeper.clock.now(),
            method=str(cast("dict[str, Any]", scope)["method"]),
            endpoint=str(scope["path"])[:ENDPOINT_CHARACTERS_MAX],
            status=status,
            outcome=authentication.verdict.value,
            accepted=authentication.verdict is Verdict.OK,
            key_id=authentication.key_id,
            account_id=authentication.account_id,
            key_hash=authentication.key_hash,
            client_ip=None if record.client is None else str(record.client),
            request_id=record.request_id,
        )
        log = self._keeper.access_log
        if not self._keeper.awaits_commit:
            log.submit(row, None, _nobody_waits)
            return
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        log.submit(row, committed, partial(_deliver, loop))
        await committed


def refusal_of(authentication: Authentication, need: Need) -> KeyledgerError | None:
    """What the caller is told: nothing when accepted; of a refused credential never the reason."""
    verdict = authentication.verdict
    if verdict is Verdict.OK:
        return None
    if verdict.is_credential_refusal:
        return UnauthenticatedError()
    return ForbiddenError(scope=need.scope if verdict is Verdict.INSUFFICIENT_SCOPE else None)


def _deliver(loop: asyncio.AbstractEventLoop, waiters: Sequence[Any], error: UnavailableError | None) -> None:
    # One wake-up of the event loop for the whole batch, not one for each row. A loop that has closed has no waiters.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, waiters, error)


def _resolve(waiters: Sequence["asyncio.Future[None]"], error: UnavailableError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # the client has gone
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def _nobody_waits(waiters: Sequence[Any], error: UnavailableError | None) -> None:
    del waiters, error


def _status(held: list[Message]) -> int:
    return next((message["status"] for message in held if message["type"] == "http.response.start"), 500)
