"""What is told of each request, in batches: its canonical line, and its part of the counts.

One line a request is most of what a serving process says. The general chain takes 20 µs for one, half of it in the
system call; this takes half a µs of the one who answers, and 1.5 µs later for its share of a batch, which is told every
100 ms. A path that could hold a credential goes the general way, where it is redacted.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from threading import Event as Flag
from threading import Lock, Thread
from typing import BinaryIO, Self

import msgspec

from infrastructure.observability import log_request
from infrastructure.redaction import is_suspect

FLUSH_SECONDS = 0.1
LINES_MAX = 10_000
PATH_CHARACTERS_MAX = 256
METHOD_CHARACTERS_MAX = 16

CountRequests = Callable[[Sequence[tuple[str, int, str, float]]], None]
"""Told of requests: route template, status, outcome, milliseconds; an empty text where there is none."""


# A plain tuple of what `write` takes is queued: naming its fields takes six times as long.
_Fields = tuple[datetime, str, str, str | None, int, float, str, str | None, str | None, str | None, str | None]


class _Line(msgspec.Struct, gc=False):
    """As the chain orders them."""

    timestamp: datetime
    level: str
    service: str
    event: str
    method: str
    path: str
    route: str | None
    status: int
    duration_ms: float
    request_id: str
    key_id: str | None
    account_id: str | None
    outcome: str | None
    client_ip: str | None


@lru_cache(maxsize=1024)
def _is_plain(path: str) -> bool:
    return path.isascii() and not is_suspect(path)


class RequestLog:
    """Tells of requests in a thread; a context manager, which tells what is left when it ends.

    ``stream`` gets JSON lines; None: every line goes the general way, as people read it. A kill -9 loses the lines of
    the last 100 ms; the access log is the record that does not.
    """

    def __init__(self, *, count: CountRequests, stream: BinaryIO | None, service: str) -> None:
        self._count = count
        self._stream = stream
        self._service = service
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._requests: list[_Fields] = []
        self._taking = Lock()
        self._stop = Flag()
        self._thread = Thread(target=self._run, name="request-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def write(  # noqa: PLR0913, PLR0917 - the fields of a request, by position on the hot path
        self,
        at: datetime,
        method: str,
        path: str,
        route: str | None,
        status: int,
        duration_ms: float,
        request_id: str,
        key_id: str | None,
        account_id: str | None,
        outcome: str | None,
        client_ip: str | None,
    ) -> None:
        """Tells of a request, soon; at once when so many wait that it has to slow its callers down.

        ``route``, ``key_id``, ``account_id``, ``outcome``, ``client_ip`` None: not known.
        """
        self._requests.append(
            (at, method, path, route, status, duration_ms, request_id, key_id, account_id, outcome, client_ip)
        )
        if len(self._requests) >= LINES_MAX:
            self._flush()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._taking:
            # What is appended meanwhile stays behind these: both steps are single ones of the interpreter.
            taken = self._requests[:]
            del self._requests[: len(taken)]
        if not taken:
            return
        lines: list[_Line] = []
        counted: list[tuple[str, int, str, float]] = []
        for request in taken:
            at, method, path, route, status, duration_ms, request_id, key_id, account_id, outcome, client_ip = request
            counted.append((route or "", status, outcome or "", duration_ms))
            if self._stream is None or not _is_plain(path):
                log_request(  # the chain says itself when the line was written
                    method=method,
                    path=path,
                    route=route,
                    status=status,
                    duration_ms=duration_ms,
                    request_id=request_id,
                    key_id=key_id,
                    account_id=account_id,
                    outcome=outcome,
                    client_ip=client_ip,
                )
                continue
            lines.append(_Line(
                at, "info", self._service, "http_request", method[:METHOD_CHARACTERS_MAX], path[:PATH_CHARACTERS_MAX],
                route, status, round(duration_ms, 3), request_id, key_id, account_id, outcome, client_ip,
            ))  # fmt: skip
        self._count(counted)
        if self._stream is not None and lines:
            with suppress(OSError):  # nobody reads the log any more: its lines are lost, and the counts go on
                self._stream.write(self._encoder.encode_lines(lines))
                self._stream.flush()
