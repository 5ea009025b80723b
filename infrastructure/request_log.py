"""What is told of each request, in batches: its canonical line, and its part of the counts.

One line a request is most of what a serving process says. The general chain takes 20 µs for one, half of it in the
system call; this takes half a µs of the one who answers, and 0.8 µs later for its share of a batch, which is told every
100 ms: what alike requests have in common is written once, and the times of a batch in one go. A path that could hold a
credential goes the general way, where it is redacted.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from threading import Event as Flag
from threading import Lock, Thread
from typing import BinaryIO, Self

import msgspec

from infrastructure.observability import log_request
from infrastructure.redaction import is_suspect

FLUSH_SECONDS = 0.1
LINES_MAX = 10_000
KINDS_MAX = 4096
LINES_AT_ONCE = 250  # some 60 kB: larger pieces are mapped and unmapped each time, which takes a third of all this
PATH_CHARACTERS_MAX = 256
METHOD_CHARACTERS_MAX = 16

CountRequests = Callable[[str, int, str, Sequence[float]], None]
"""Told of requests that have route template, status and outcome in common (an empty text for none): milliseconds."""


RequestKind = tuple[str, str, str | None, int, str | None, str | None, str | None, str | None]
"""What the lines of alike requests share: method, path, route, status, key id, account id, outcome, client address.

None: not known.
"""

# Plain tuples are queued: naming their fields takes six times as long.
_Told = tuple[RequestKind, datetime, float, str]
_Words = tuple[str, str]
_Groups = defaultdict[tuple[str | None, int, str | None], list[float]]
_Known = dict[int, tuple[Callable[[float], None], _Words | None]]


class _Head(msgspec.Struct):
    """What a line says before the duration, as the chain orders it."""

    level: str
    service: str
    event: str
    method: str
    path: str
    route: str | None
    status: int


class _Tail(msgspec.Struct):
    """What a line says after the request's id."""

    key_id: str | None
    account_id: str | None
    outcome: str | None
    client_ip: str | None


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
        self._words: dict[RequestKind, _Words] = {}
        self._requests: list[_Told] = []
        self._taking = Lock()
        self._stop = Flag()
        self._thread = Thread(target=self._run, name="request-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def write(self, kind: RequestKind, at: datetime, duration_ms: float, request_id: str) -> None:
        """Tells of a request, soon; at once when so many wait that it has to slow its callers down."""
        self._requests.append((kind, at, duration_ms, request_id))
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
        groups: _Groups = defaultdict(list)
        known: _Known = {}
        for start in range(0, len(taken), LINES_AT_ONCE):
            lines = self._lines(taken[start : start + LINES_AT_ONCE], groups, known)
            if self._stream is not None and lines:
                # Nobody reads the log any more, or it is closed: its lines are lost, and the counts go on.
                with suppress(OSError, ValueError):
                    self._stream.write("".join(lines).encode())
                    self._stream.flush()
        for (route, status, outcome), milliseconds in groups.items():
            self._count(route or "", status, outcome or "", milliseconds)

    def _lines(self, told: Sequence[_Told], groups: _Groups, known: _Known) -> list[str]:
        """The lines of those that can be told quickly; the others are told the general way. Durations go to ``groups``.

        ``known``: what alike requests share, by the identity of their kind, which lives as long as they are told.
        """
        instants = self._encoder.encode([at for _, at, _, _ in told])[1:-1].decode().split(",")
        lines: list[str] = []
        for (kind, _, duration_ms, request_id), instant in zip(told, instants, strict=True):
            shared = known.get(id(kind))
            if shared is None:
                words = self._words.get(kind) or self._new_words(kind)
                shared = known[id(kind)] = groups[kind[2], kind[3], kind[6]].append, words
            add, words = shared
            add(duration_ms)
            if words is None:
                _tell_generally(kind, duration_ms, request_id)
            else:
                head, tail = words
                lines.append(
                    f'{{"timestamp":{instant},{head},"duration_ms":{duration_ms:.3f},"request_id":"{request_id}",{tail}}}\n'
                )
        return lines

    def _new_words(self, kind: RequestKind) -> _Words | None:
        """The members of the kind's lines before the duration and after the id; None where they are not so plain."""
        method, path, route, status, key_id, account_id, outcome, client_ip = kind
        if self._stream is None or not path.isascii() or is_suspect(path):
            return None
        told = method[:METHOD_CHARACTERS_MAX], path[:PATH_CHARACTERS_MAX]
        head = _Head("info", self._service, "http_request", *told, route, status)
        words = self._members(head), self._members(_Tail(key_id, account_id, outcome, client_ip))
        if told == (method, path):  # what may be long is not kept
            if len(self._words) >= KINDS_MAX:
                self._words.clear()
            self._words[kind] = words
        return words

    def _members(self, part: msgspec.Struct) -> str:
        return self._encoder.encode(part)[1:-1].decode()


def _tell_generally(kind: RequestKind, duration_ms: float, request_id: str) -> None:
    method, path, route, status, key_id, account_id, outcome, client_ip = kind
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
