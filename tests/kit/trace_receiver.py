"""A real OTLP/HTTP receiver for tests, in a process of its own: what it keeps is what OpenTelemetry's definition takes.

It takes the JSON encoding, in which ids are hexadecimal where protobuf's JSON has base64 (opentelemetry-proto,
"JSON Protobuf Encoding"); an unknown field, a wrong type, or an id of another length is 400, and kept as a complaint.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.kit.service import CHECKOUT, HOST, eventually, free_port

BYTES_OF_IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
STOP_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Span:
    """One span, as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    is_error: bool
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    headers: Mapping[str, str]


class TraceReceiver:
    """The receiver, from entering to leaving; on one port, so that it can go away and come back."""

    def __init__(self, place: Path) -> None:
        self.port = free_port()
        self._kept = place / "spans.jsonl"
        self._complaints = place / "complaints"

    @property
    def url(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        words = [sys.executable, "-m", "tests.kit.trace_receiver", str(self.port), self._kept, self._complaints]
        self._process = subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def spans(self) -> list[Span]:
        """What came so far, in order; AssertionError when something came that is no trace."""
        assert not self._complaints.exists(), self._complaints.read_text(encoding="utf-8")
        lines = self._kept.read_text(encoding="utf-8").splitlines() if self._kept.exists() else []
        return [Span(**json.loads(line)) for line in lines]

    def await_spans(self, count: int) -> list[Span]:
        """Once there are so many beside those of the server's start, which asks itself whether it is ready."""
        eventually(lambda: len(self._asked()) >= count, f"{count} spans have come")
        return self._asked()

    def _asked(self) -> list[Span]:
        return [span for span in self.spans if span.attributes.get("http.route") != "/health/ready"]


def _read(path: str, body: bytes, headers: Mapping[str, str]) -> list[Span]:
    if path != "/v1/traces" or headers["content-type"] != "application/json":
        raise ValueError(f"{path} {headers}")
    told = json.loads(body)
    for resource in told["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in BYTES_OF_IDS.keys() & span.keys():
                    raw = bytes.fromhex(span[name])
                    if len(raw) != BYTES_OF_IDS[name] or not any(raw):
                        raise ValueError(f"{name}: {span[name]}")
                    span[name] = base64.b64encode(raw).decode()
    request = json_format.ParseDict(told, ExportTraceServiceRequest())
    return [
        Span(
            name=span.name,
            kind=span.SpanKind.Name(span.kind),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            began=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
            is_error=span.status.code == span.status.STATUS_CODE_ERROR,
            attributes=_plain(span.attributes),
            resource=_plain(resource.resource.attributes),
            headers=headers,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


def _serve(port: int, kept: Path, complaints: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                spans = _read(self.path, body, headers)
            except (ValueError, KeyError, json_format.ParseError) as error:
                complaints.write_text(f"{error!r}: {body!r}", encoding="utf-8")
                self._answer(400)
                return
            lines = [json.dumps({name: getattr(span, name) for name in Span.__slots__}) + "\n" for span in spans]
            with kept.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
            self._answer(200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer((HOST, port), Handler) as server:
        print("ready", flush=True)  # noqa: T201 - for whoever waits
        server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
