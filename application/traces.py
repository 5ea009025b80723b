"""Traces as the service tells them: one span for each request, to a receiver that the operator has named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

SERVICE_NAME = "keyledger"


@dataclass(frozen=True, slots=True)
class TraceReceiver:
    """Where spans go: an OTLP/HTTP receiver's address for traces, and the headers that it wants.

    ``ratio``: the share of requests that begin a trace, where nobody else has decided.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    service_name: str = SERVICE_NAME
    ratio: float = 1.0


class RequestSpan(NamedTuple):
    """One request, answered. Never a credential, an address, a path or a query: only what cannot hold one."""

    trace_id: bytes
    """16 bytes."""
    span_id: bytes
    """8 bytes."""
    parent_id: bytes | None
    """8 bytes; None: the trace begins here."""
    began: datetime
    seconds: float
    method: str
    """One that HTTP knows, or `_OTHER`."""
    route: str | None
    """Its template; None for a path that no route takes."""
    status: int
    outcome: str | None
    """The true verdict; None where no key was asked for."""
    key_id: str | None
    request_id: str | None


class Traces(Protocol):
    """Takes spans, from the event loop; what cannot be delivered is dropped, and never slows a request down."""

    def record(self, span: RequestSpan) -> None:
        """Takes one."""
        ...
