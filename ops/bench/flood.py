"""A flood from one address: as many connections as told, each asking again as soon as it has its answer.

    python ops/bench/flood.py PORT PATH SOURCE CONNECTIONS SECONDS FILE

wrk cannot bind its connections to an address; this can. FILE holds a credential a line, sent in turn. Prints
`ready` when connected, and at the end a line of JSON: the answers by status.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

HOST = "127.0.0.1"
DRAIN_SECONDS = 0.5  # for the answers that are still to come, so that every attempt is counted


class Flooder(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: Iterator[bytes], statuses: Counter[str], over: asyncio.Event) -> None:
        self._requests = requests
        self._statuses = statuses
        self._over = over
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the first time."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own kind
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Asks again after a whole refusal, which ends with the two brackets of the error body."""
        self._received += data
        if self._transport is not None and self._received.endswith(b"}}"):
            self._statuses[self._received[9:12].decode("ascii")] += 1
            self._received = b""
            if not self._over.is_set():
                self._transport.write(next(self._requests))

    def connection_lost(self, exc: Exception | None) -> None:
        """Asks no more."""
        del exc
        self._transport = None


async def flood(port: int, path: str, source: str, connections: int, seconds: float, lines: list[str]) -> Counter[str]:  # noqa: PLR0913, PLR0917 - the command's words
    """The answers by status."""
    head = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAuthorization: Bearer "
    requests = cycle([f"{head}{line}\r\n\r\n".encode("ascii") for line in lines])
    statuses: Counter[str] = Counter()
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Flooder(requests, statuses, over), HOST, port, local_addr=(source, 0))
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    over.set()
    await asyncio.sleep(DRAIN_SECONDS)
    return statuses


def main() -> None:
    """Floods."""
    port, path, source, connections, seconds, file = sys.argv[1:]
    lines = Path(file).read_text(encoding="ascii").split()
    print(json.dumps(uvloop.run(flood(int(port), path, source, int(connections), float(seconds), lines))), flush=True)


if __name__ == "__main__":
    main()
