"""The outermost layer: whatever is not answered ahead gets an id and one log line, and its answer carries the id."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, cast

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from application.ports import Clock
from interfaces.http.body import Body, announces_body
from interfaces.http.errors import INTERNAL_ERROR
from interfaces.http.forward import PATH as FORWARD_PATH
from interfaces.http.request import AddressText, RequestRecord, TrustedProxies, client_of, counted_of, keep_record

RequestLine = Callable[..., None]
log = structlog.get_logger()


class Edge:
    """Wraps the whole application, so that what the framework itself refuses is treated alike."""

    def __init__(  # noqa: PLR0913 - what it does with each request
        self,
        app: ASGIApp,
        *,
        new_request_id: Callable[[], str],
        trusted_proxies: TrustedProxies,
        address_text: AddressText,
        clock: Clock,
        log_request: RequestLine,
    ) -> None:
        self._app = app
        self._new_request_id = new_request_id
        self._trusted_proxies = trusted_proxies
        self._address_text = address_text
        self._now = clock.now
        self._log_request = log_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; anything but HTTP goes through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        client = client_of(scope, self._trusted_proxies)
        client_ip, counted = self._address_text(client), counted_of(scope, client)
        record = RequestRecord(self._new_request_id(), scope["method"], client, client_ip, counted)
        keep_record(scope, record)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            await send(message)

        body = Body(receive) if announces_body(scope) else None
        if body is not None:
            receive = body.receive
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # The unknown becomes an opaque 500, with its traceback in the log alone.
            log.exception("unhandled_error", request_id=record.request_id)
            if not status:
                await INTERNAL_ERROR(scope, receive, send_with_id)
        finally:
            self._write_line(scope, record, status, (perf_counter() - started) * 1000)
        if body is not None:
            await body.take_rest()

    def _write_line(self, scope: HTTPScope, record: RequestRecord, status: int, duration_ms: float) -> None:
        authentication = record.authentication
        route: str | None = cast("dict[str, Any]", scope).get("path_template")
        outcome = None if authentication is None else authentication.verdict
        if route is None and outcome is not None:
            route = FORWARD_PATH  # the one door that asks for a key outside the framework
        kind = (
            record.method,
            scope["path"],
            route,
            status,
            None if authentication is None else authentication.key_id,
            None if authentication is None else authentication.account_id,
            outcome,
            record.client_ip,
        )
        self._log_request(kind, self._now(), duration_ms, record.request_id)
