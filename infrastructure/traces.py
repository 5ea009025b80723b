"""Spans by OTLP/HTTP in its JSON encoding (opentelemetry-proto, "OTLP/HTTP JSON"), from a thread of its own.

A library would bring eight packages for one message, and its spans cost their request 30 µs. Here a span costs one
append; a batch goes out each second. What the receiver does not take is dropped: traces are told, not kept.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Event as Flag
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import structlog

from application.traces import RequestSpan, TraceReceiver

FLUSH_SECONDS = 1.0
SPANS_MAX = 2048
BATCH_SPANS_MAX = 512
ANSWER_SECONDS = 5.0
KIND_SERVER = 2
STATUS_ERROR = 2
SCOPE = "keyledger.http"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode

log = structlog.get_logger()


class OtlpTraces:
    """The port `Traces`; a context manager, which sends what is left once when it ends.

    At most SPANS_MAX spans wait; more are dropped, and counted by ``dropped``, as is what the receiver does not take.
    """

    def __init__(self, receiver: TraceReceiver, *, instance: str) -> None:
        self.dropped = 0
        self._receiver = receiver
        self._instance = instance
        self._spans: list[RequestSpan] = []
        self._outage_told = False
        self._stop = Flag()
        self._thread = Thread(target=self._run, name="traces", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def record(self, span: RequestSpan) -> None:
        """Takes one, unless too many wait."""
        if len(self._spans) < SPANS_MAX:
            self._spans.append(span)
        else:
            self.dropped += 1

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        taken = self._spans[:]
        del self._spans[: len(taken)]
        for first in range(0, len(taken), BATCH_SPANS_MAX):
            batch = taken[first : first + BATCH_SPANS_MAX]
            complaint = self._deliver(batch)
            if complaint is None:
                self._outage_told = False
                continue
            self.dropped += len(taken) - first
            if not self._outage_told:
                log.warning("traces_not_taken", reason=complaint, spans=len(batch))
                self._outage_told = True
            return

    def _deliver(self, batch: Sequence[RequestSpan]) -> str | None:
        """Why the receiver did not take it; None when it did."""
        url = urlsplit(self._receiver.url)
        opened: Callable[..., HTTPConnection] = HTTPSConnection if url.scheme == "https" else HTTPConnection
        connection = opened(url.hostname or "", url.port, timeout=ANSWER_SECONDS)
        try:
            headers = {**self._receiver.headers, "Content-Type": "application/json"}
            connection.request("POST", url.path or "/", body=self._encoded(batch), headers=headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException) as error:
            return repr(error)
        finally:
            with suppress(OSError):  # one that cannot even be closed has told what it is by now
                connection.close()
        return None if answer.status // 100 == 2 else f"it answered {answer.status}"  # noqa: PLR2004 - any success

    def _encoded(self, batch: Sequence[RequestSpan]) -> bytes:
        resource = {"service.name": self._receiver.service_name, "service.instance.id": self._instance}
        scope_spans = {"scope": {"name": SCOPE}, "spans": [_span(span) for span in batch]}
        return _encode(
            {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope_spans]}]}
        )


def _span(span: RequestSpan) -> dict[str, Any]:
    began = (span.began - _EPOCH) // _MICROSECOND * 1000
    told: dict[str, Any] = {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        "name": span.method if span.route is None else f"{span.method} {span.route}",
        "kind": KIND_SERVER,
        "startTimeUnixNano": str(began),
        "endTimeUnixNano": str(began + round(span.seconds * 1e9)),
        "attributes": _attributes(
            {
                "http.request.method": span.method,
                "http.route": span.route,
                "http.response.status_code": span.status,
                "keyledger.outcome": span.outcome,
                "keyledger.key_id": span.key_id,
                "keyledger.request_id": span.request_id,
            }
        ),
    }
    if span.parent_id is not None:
        told["parentSpanId"] = span.parent_id.hex()
    if span.status >= 500 or not span.status:  # noqa: PLR2004 - the server's own errors, and no answer at all
        told["status"] = {"code": STATUS_ERROR}
    return told


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}}
        for key, value in values.items()
        if value is not None
    ]
