"""A connection that times what it asks: one request at a time, answers read whole, bytes kept as they came."""

import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from servers import HOST

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


@dataclass(frozen=True)
class Reply:
    """One answer; ``seconds`` from before its request was written until after its last byte was read."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    def header(self, name: bytes) -> bytes:
        """The value of a header, in lower case as granian sends its name; empty without it."""
        return self.head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]

    @property
    def process(self) -> bytes:
        """What tells the worker that answered: the part of its request ids that stays."""
        return self.header(b"x-request-id")[:16]

    @property
    def comparable(self) -> bytes:
        """All its bytes but those that every answer has its own of: its id and the time."""
        lines = self.head.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.startswith((b"x-request-id: ", b"date: "))) + self.body


class Wire:
    """One kept-alive connection to a server's port."""

    def __init__(self, port: int) -> None:
        self._host = f"{HOST}:{port}"
        self._socket = socket.create_connection((HOST, port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes it."""
        self._socket.close()

    def request(self, path: str, key: str, method: str = "GET") -> bytes:
        """The bytes of a request."""
        length = "" if method == "GET" else "Content-Length: 0\r\n"
        return f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{length}Authorization: Bearer {key}\r\n\r\n".encode(
            "ascii"
        )

    def ask(self, request: bytes) -> Reply:
        """Its answer."""
        began = time.perf_counter()
        self.send(request)
        return self.receive(began)

    def send(self, request: bytes) -> None:
        """Only sends; `receive` is for later."""
        self._socket.sendall(request)

    def receive(self, began: float) -> Reply:
        """The answer to what was sent at ``began``; ConnectionError when the server closes."""
        received = self._more()
        while _END not in received:
            received += self._more()
        head, _, body = received.partition(_END)
        length = int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0] or 0)
        while len(body) < length:
            body += self._more()
        return Reply(int(head[9:12]), head, body, time.perf_counter() - began)

    def _more(self) -> bytes:
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


def one_to_each_worker(port: int, workers: int, key: str) -> dict[bytes, Wire]:
    """A connection to each worker of a server, by what its request ids begin with. RuntimeError when some stay mute."""
    found: dict[bytes, Wire] = {}
    others: list[Wire] = []
    for _ in range(200):
        wire = Wire(port)
        process = wire.ask(wire.request("/auth/forward", key)).process
        if process in found:
            others.append(wire)  # open until the end, so that the next one has a reason to go elsewhere
        else:
            found[process] = wire
        if len(found) == workers:
            break
        time.sleep(0.01)
    for other in others:
        other.close()
    if len(found) < workers:
        raise RuntimeError(f"of {workers} workers {len(found)} answered")
    return found
