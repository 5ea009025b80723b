"""A span for each request, at a real OTLP receiver: what it says, whose trace it joins, and what it never holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interfaces.settings import SettingError, Settings
from tests.kit.http_server import HttpServer, serving
from tests.kit.service import eventually
from tests.kit.trace_receiver import Span, TraceReceiver

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-{flags}") for flags in ("01", "00"))


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch, receiver: TraceReceiver, **more: str) -> Iterator[None]:
    """Servers started within send their traces there."""
    with monkeypatch.context() as patched:
        patched.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        for name, value in more.items():
            patched.setenv(f"OTEL_{name.upper()}", value)
        yield


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[TraceReceiver]:
    """A receiver that runs."""
    with TraceReceiver(tmp_path) as running:
        yield running


def by_request(spans: list[Span]) -> dict[str, Span]:
    """The spans by the ids of their requests."""
    return {span.attributes["keyledger.request_id"]: span for span in spans}


@pytest.mark.parametrize("durability", ["commit", "buffered"])
def test_each_request_is_one_span(
    conninfo: str, tmp_path: Path, receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Method, route, status, true outcome, key and request, for every door; and no credential, path or address."""
    more = {"service_name": "keys of acme", "exporter_otlp_headers": "x-token=s%20cret"}
    with (
        traced(monkeypatch, receiver, **more),
        serving(conninfo, tmp_path / "log", access_log_durability=durability) as own,
    ):
        key = own.back.key(own.back.account(), scopes=["campaigns:read"])
        with own.client(key.secret) as client:
            expected = {}
            for method, path, other, route, status, outcome in (
                ("GET", "/api/campaigns", None, "/api/campaigns", 200, "ok"),
                ("GET", "/auth/forward", None, "/auth/forward", 200, "ok"),
                ("GET", "/auth/forward", None, "/auth/forward", 200, "ok"),
                ("GET", f"/api/campaigns/{key.secret}", None, "/api/campaigns/{campaign_id}", 403, "ok"),
                ("POST", "/api/campaigns", None, "/api/campaigns", 403, "insufficient_scope"),
                ("GET", f"/auth/forward/x?{key.secret}", "nonsense", "/auth/forward", 401, "malformed"),
                ("GET", "/health/live", None, "/health/live", 200, None),
                ("GET", f"/nowhere/{key.secret}", None, None, 404, None),
                ("BREW", "/nowhere", None, None, 404, None),
            ):  # fmt: skip
                heard = client.call(method, path, key=other)
                assert heard.status == status
                shown = method if method != "BREW" else "_OTHER"
                known = key.id if outcome not in {None, "malformed"} else None
                expected[heard.request_id] = (shown, route, status, outcome, known)
        spans = by_request(receiver.await_spans(len(expected)))
    names = ("http.request.method", "http.route", "http.response.status_code", "keyledger.outcome", "keyledger.key_id")
    told = {request: tuple(spans[request].attributes.get(name) for name in names) for request in expected}
    assert told == expected
    for request, span in spans.items():
        if request in expected:
            assert span.name == " ".join(filter(None, expected[request][:2]))
        assert span.kind == "SPAN_KIND_SERVER"
        assert span.resource["service.name"] == "keys of acme"
        assert span.headers["x-token"] == "s cret"
        assert span.parent_id == ""
        assert 0 < span.ended - span.began < 60e9
        assert not span.is_error
    assert len({span.trace_id for span in spans.values()}) == len(spans)
    for words in (key.secret, key.secret[-43:], "nonsense", "10.0.", "127.0.0.1"):
        assert words not in str([(span.name, span.attributes, span.resource) for span in receiver.spans])


def test_a_proxys_trace_goes_on(
    conninfo: str, tmp_path: Path, receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trusted proxy's span is the parent, and its decision holds; what cannot be read begins another trace."""
    with traced(monkeypatch, receiver, traces_sampler_arg="1"), serving(conninfo, tmp_path / "log") as own:
        key = own.back.key(own.back.account())
        with own.client(key.secret) as client:
            joined = client.get("/auth/forward", headers=[SAMPLED])
            untold = client.get("/auth/forward", headers=[UNSAMPLED])
            others = [
                client.get("/auth/forward", headers=headers)
                for headers in (
                    [SAMPLED, SAMPLED],
                    [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
                    [("traceparent", f"ff-{TRACE}-{PARENT}-01")],
                    [("traceparent", f"00-{TRACE.upper()}-{PARENT}-01")],
                    [("traceparent", "nonsense")],
                )
            ]
            last = client.get("/auth/forward")
    spans = by_request(receiver.spans)  # what waits is sent when the server ends
    assert (spans[joined.request_id].trace_id, spans[joined.request_id].parent_id) == (TRACE, PARENT)
    assert untold.request_id not in spans
    for heard in (*others, last):
        assert spans[heard.request_id].trace_id != TRACE
        assert spans[heard.request_id].parent_id == ""


def test_nobody_else_joins_a_trace_or_decides(
    conninfo: str, tmp_path: Path, receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From others than trusted proxies `traceparent` means nothing; a ratio of 0 tells of a proxy's traces alone."""
    with traced(monkeypatch, receiver, traces_sampler_arg="0"):
        with serving(conninfo, tmp_path / "log", trusted_proxies="203.0.113.0/24") as own, own.client() as client:
            assert client.get("/auth/forward", headers=[SAMPLED]).status == 401
        assert receiver.spans == []
        with serving(conninfo, tmp_path / "log") as own, own.client() as client:
            heard = client.get("/auth/forward", headers=[SAMPLED])
            client.get("/auth/forward")
        assert [span.attributes["keyledger.request_id"] for span in receiver.spans] == [heard.request_id]


def test_a_receiver_that_is_away_disturbs_nobody(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are answered, it is said once, and later spans go out when the receiver is there."""
    receiver = TraceReceiver(tmp_path)
    with traced(monkeypatch, receiver), serving(conninfo, tmp_path / "log") as own:
        with own.client(own.back.key(own.back.account()).secret) as client:
            assert [client.get("/auth/forward").status for _ in range(20)] == [200] * 20
            await_troubles(own)
            with receiver:
                heard = client.get("/auth/forward")
                spans = receiver.await_spans(1)
                assert heard.request_id in by_request(spans)
        assert [line["event"] for line in own.troubles()] == ["traces_not_taken"]


def await_troubles(server: HttpServer) -> None:
    """Once something has gone wrong."""
    eventually(server.troubles, "it is said that nobody takes the traces")


@pytest.mark.parametrize(
    "wrong",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:secret@collector"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", "OTEL_EXPORTER_OTLP_HEADERS": "a b=secret"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", "OTEL_EXPORTER_OTLP_HEADERS": "a=secret%0D%0Ab"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", "OTEL_EXPORTER_OTLP_HEADERS": "a=secret%E6%97%A5"},
        {"OTEL_TRACES_SAMPLER_ARG": "1.5"},
    ],
)
def test_what_cannot_be_meant_refuses_the_start(wrong: dict[str, str]) -> None:
    """And does not repeat what may be a secret."""
    with pytest.raises(SettingError, match="OTEL_") as refused:
        Settings.read(wrong)
    assert "secret" not in str(refused.value)
