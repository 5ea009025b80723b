"""Load for tests that break things beneath it: connections that ask without pause, and a record of every answer."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from threading import Thread
from time import monotonic
from typing import NamedTuple, Self

HOST = "127.0.0.1"
PATHS = ("/auth/forward", "/api/campaigns")
RETRY_SECONDS = 0.02
ANSWER_SECONDS = 20.0


class Answered(NamedTuple):
    """One answer; ``at`` are monotonic seconds, ``line`` counts the connections that were opened."""

    at: float
    line: int
    status: int
    request_id: str


@dataclass(slots=True)
class Load:
    """So many callers with one key in a thread of their own, from entering to leaving; each asks again once answered.

    A caller whose connection breaks, or who is refused, goes on after a moment. ``unanswered``: requests that were sent
    and got no whole answer, by their connection; when they broke.
    """

    port: int
    key: str
    callers: int = 8
    paths: Sequence[str] = PATHS
    answers: list[Answered] = field(default_factory=list[Answered])
    unanswered: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    _stop: bool = False
    _lines: "count[int]" = field(default_factory=count)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends nothing more; returns when every caller has its answer."""
        self._stop = True
        assert self._thread is not None
        self._thread.join()

    def count(self, status: int = 200, *, since: int = 0) -> int:
        """Answers with this status, from the place ``since`` of the record on."""
        return sum(answer.status == status for answer in self.answers[since:])

    async def _run(self) -> None:
        await asyncio.gather(*(self._call(number) for number in range(self.callers)))

    async def _call(self, number: int) -> None:
        while not self._stop:
            streams = None
            with suppress(OSError):
                streams = await asyncio.open_connection(HOST, self.port)
            if streams is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            line, (reader, writer) = next(self._lines), streams
            try:
                await self._ask(number, line, reader, writer)
            except (OSError, EOFError, TimeoutError):
                self.unanswered.append((line, monotonic()))
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _ask(self, number: int, line: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = [
            f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {self.key}\r\n\r\n".encode()
            for path in self.paths
        ]
        while not self._stop:
            number += 1
            writer.write(requests[number % len(requests)])
            async with asyncio.timeout(ANSWER_SECONDS):
                status, headers = await _answer(reader)
            self.answers.append(Answered(monotonic(), line, status, headers["x-request-id"]))
            if status != 200:
                await asyncio.sleep(RETRY_SECONDS)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers
