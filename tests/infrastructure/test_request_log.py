"""What is told of requests: one line each, none twice and none lost, credentials cut, and everything counted."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import pytest

from domain.ids import KeyId
from domain.verdict import Verdict
from infrastructure.request_log import LINES_MAX, METHOD_CHARACTERS_MAX, PATH_CHARACTERS_MAX, RequestLog

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
KEY = "sk_live_7Hq2mB9xT_" + "s3cr3tPart" * 4 + "abc"


class Told:
    """What a log was told to write and to count."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()
        self.counted: list[tuple[str, int, str, float]] = []

    def count(self, route: str, status: int, outcome: str, milliseconds: Sequence[float]) -> None:
        """Takes what is to be counted."""
        self.counted += [(route, status, outcome, each) for each in milliseconds]

    def lines(self) -> list[dict[str, Any]]:
        """What was written."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def tell(log: RequestLog, request_id: str, *, path: str = "/api/keys", method: str = "GET") -> None:
    kind = (method, path, "/api/keys", 200, KeyId("key_7Hq2mB9xT"), None, Verdict.OK, None)
    log.write(kind, NOW, 1.23456, request_id)


def test_a_line_says_all_that_is_known() -> None:
    """Every field by its name; ids and verdicts as text; what a client chooses is cut."""
    told = Told()
    with RequestLog(count=told.count, stream=told.stream, service="serve") as log:
        tell(log, "req_1", path="/" + "p" * 999, method="M" * 99)
    assert told.lines() == [
        {
            "timestamp": "2030-01-01T12:00:00Z",
            "level": "info",
            "service": "serve",
            "event": "http_request",
            "method": "M" * METHOD_CHARACTERS_MAX,
            "path": ("/" + "p" * 999)[:PATH_CHARACTERS_MAX],
            "route": "/api/keys",
            "status": 200,
            "duration_ms": 1.235,
            "request_id": "req_1",
            "key_id": "key_7Hq2mB9xT",
            "account_id": None,
            "outcome": "ok",
            "client_ip": None,
        }
    ]
    assert told.counted == [("/api/keys", 200, "ok", 1.23456)]


def test_none_is_lost_and_none_is_told_twice() -> None:
    """Many threads tell more than may wait, while the log's own thread writes."""
    told = Told()
    each = LINES_MAX // 2

    def tell_many(thread: int) -> None:
        for number in range(each):
            tell(log, f"req_{thread}_{number}")

    with RequestLog(count=told.count, stream=told.stream, service="serve") as log:
        threads = [Thread(target=tell_many, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ids = [line["request_id"] for line in told.lines()]
    assert len(ids) == len(set(ids)) == len(told.counted) == 4 * each


def test_whoever_tells_one_too_many_writes_them_all() -> None:
    """Though the log's own thread does not come to it: what waits is bounded."""
    told = Told()
    log = RequestLog(count=told.count, stream=told.stream, service="serve")
    for number in range(LINES_MAX - 1):
        tell(log, f"req_{number}")
    assert told.lines() == []
    tell(log, f"req_{LINES_MAX - 1}")
    assert [line["request_id"] for line in told.lines()] == [f"req_{number}" for number in range(LINES_MAX)]


def test_a_credential_in_a_path_is_cut_and_the_request_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Such a line goes the general way, which redacts it."""
    told = Told()
    with RequestLog(count=told.count, stream=told.stream, service="serve") as log:
        tell(log, "req_1", path=f"/api/keys/{KEY}")
    assert told.stream.getvalue() == b""
    assert KEY not in capsys.readouterr().err
    assert len(told.counted) == 1


class Closed(io.BytesIO):
    """A stream whose reader has gone."""

    def write(self, _: object) -> int:
        """Breaks, as a pipe does."""
        raise BrokenPipeError


class Ended(io.BytesIO):
    """A stream that was closed on this side."""

    def write(self, _: object) -> int:
        """Refuses, as a closed file does."""
        raise ValueError


@pytest.mark.parametrize("stream", [Closed(), Ended()])
def test_requests_are_counted_when_nobody_reads_the_log(stream: io.BytesIO) -> None:
    """A broken stream loses its lines; the metrics, and whoever answers, do not notice."""
    told = Told()
    with RequestLog(count=told.count, stream=stream, service="serve") as log:
        for number in range(LINES_MAX + 1):
            tell(log, f"req_{number}")
    assert len(told.counted) == LINES_MAX + 1
