"""The outermost layer where traces are told: a span for each request, joined to the trace of the proxy in front.

A ``traceparent`` (W3C Trace Context, section 3.2) is believed from trusted proxies alone, as the client's address is:
anybody else could put their requests into a trace of ours, or have every one of them told. From the rest of the world
each request begins a trace of its own.
"""

import re
from time import perf_counter
from typing import Any, cast

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from application.ports import Clock, Entropy
from application.traces import RequestSpan, Traces
from interfaces.http.forward import PATH as FORWARD_PATH
from interfaces.http.request import TrustedProxies, is_from_trusted_proxy, noted_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
OTHER = "_OTHER"  # as OpenTelemetry's semantic conventions call what anybody may make up
PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
SAMPLED = 1
_Parent = tuple[bytes, bytes, bool]


class Traced:
    """Wraps the whole application. It is there only where traces are configured: elsewhere nothing of it runs."""

    def __init__(  # noqa: PLR0913 - what a span is made of
        self,
        app: ASGIApp,
        *,
        traces: Traces,
        ratio: float,
        entropy: Entropy,
        clock: Clock,
        trusted_proxies: TrustedProxies,
    ) -> None:
        self._app = app
        self._traces = traces
        self._below = round(ratio * 2**64)
        self._entropy = entropy
        self._clock = clock
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is not told of goes through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chance = self._entropy.bytes(24)
        parent = self._parent_of(scope)
        trace_id, parent_id, is_sampled = parent or (chance[:16], None, self._is_chosen(chance[:16]))
        if not is_sampled:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        began, started = self._clock.now(), perf_counter()
        try:
            await self._app(scope, receive, answer.send)
        finally:
            seconds = perf_counter() - started
            asked = cast("dict[str, Any]", scope)
            record = noted_of(scope)
            bearer = None if record is None else record.authentication
            outcome = None if bearer is None else bearer.verdict
            route: str | None = asked.get("path_template")
            if route is None and outcome is not None:
                route = FORWARD_PATH  # the one door that asks for a key outside the framework
            method: str = asked["method"]
            self._traces.record(
                RequestSpan(
                    trace_id=trace_id,
                    span_id=chance[16:],
                    parent_id=parent_id,
                    began=began,
                    seconds=seconds,
                    method=method if method in METHODS else OTHER,
                    route=route,
                    status=answer.status,
                    outcome=outcome,
                    key_id=None if bearer is None else bearer.key_id,
                    request_id=None if record is None else record.request_id,
                )
            )

    def _is_chosen(self, trace_id: bytes) -> bool:
        return int.from_bytes(trace_id[8:]) < self._below

    def _parent_of(self, scope: Scope) -> _Parent | None:
        if not self._trusted_proxies or not is_from_trusted_proxy(scope, self._trusted_proxies):
            return None
        given = [value for name, value in scope["headers"] if name == b"traceparent"]
        match = PARENT.fullmatch(given[0]) if len(given) == 1 else None
        if match is None:
            return None
        trace_id, parent_id, flags = (bytes.fromhex(part.decode()) for part in match.groups())
        return trace_id, parent_id, bool(flags[0] & SAMPLED)


class _Answer:
    """What goes out, looked at on its way; ``status`` is 0 until it begins."""

    def __init__(self, send: Send) -> None:
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        """Passes it on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
