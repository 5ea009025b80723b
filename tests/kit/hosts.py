"""Other services that check keys in their own processes: the examples of `ops/examples`, served by granian."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.kit.http import Client
from tests.kit.http_answers import ANSWER_SECONDS, HOST, Heard, StrictClient, another_address, read_answers
from tests.kit.http_server import ROOT_SECRET, STOP_SECONDS
from tests.kit.service import CHECKOUT, eventually, free_port

_TEXT, _CLOSE = 1, 8  # opcodes, RFC 6455 section 5.2


@dataclass(frozen=True, slots=True)
class HostService:
    """A running host."""

    port: int
    log: Path

    @contextmanager
    def client(self, key: str | None = None) -> Iterator[Client]:
        """A client with a connection of its own, for the answers of the host itself."""
        with Client(HOST, self.port, key=key) as client:
            yield client

    @contextmanager
    def strict_client(self, key: str | None = None) -> Iterator[StrictClient]:
        """The same for answers of Keyledger."""
        client = StrictClient(self.port, key=key)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def hosting(
    example: str, conninfo: str, log: Path, *, interface: str = "asgi", workers: int = 1, **settings: str
) -> Iterator[HostService]:
    """The example on that database, with the secrets of `http_server.serving`; ``settings`` by their fields' names."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    own = {"database_url": conninfo, "secret_keys": ROOT_SECRET, "trusted_proxies": HOST} | settings
    environment = inherited | {f"KEYLEDGER_{name.upper()}": value for name, value in own.items()}
    command = [sys.executable, "-m", "granian", f"{example}:app", "--interface", interface]
    command += ["--host", HOST, "--port", str(port), "--workers", str(workers), "--working-dir", "ops/examples"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )

    def answers() -> bool:
        assert process.poll() is None, f"the host ended:\n{log.read_text(encoding='utf-8')}"
        # All of them: granian waits for ever for a worker that it asks to stop before it has started.
        return log.read_text(encoding="utf-8").count("Started worker-") == workers

    try:
        eventually(answers, "the host answers")
        yield HostService(port, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class WebSocket:
    """A WebSocket client (RFC 6455) for short texts; ``refusal`` is the answer to a handshake that was denied."""

    def __init__(self, port: int, path: str, *, key: str | None = None) -> None:
        self.refusal: Heard | None = None
        self._line = socket.create_connection((HOST, port), timeout=ANSWER_SECONDS)
        self._read = self._line.makefile("rb")
        bearer = "" if key is None else f"Authorization: Bearer {key}\r\n"
        self._line.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {another_address()}\r\n{bearer}"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b"".join(iter(self._read.readline, b"\r\n")) + b"\r\n"
        if not head.startswith(b"HTTP/1.1 101 "):
            length = next((int(line[15:]) for line in head.lower().splitlines() if line[:15] == b"content-length:"), 0)
            [self.refusal] = read_answers(head + self._read.read(length))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._read.close()
        self._line.close()

    def say(self, text: str) -> None:
        """Sends a text of fewer than 126 bytes, masked with zeros."""
        body = text.encode()
        self._line.sendall(bytes([0x80 | _TEXT, 0x80 | len(body)]) + bytes(4) + body)

    def hear(self) -> str | int:
        """The next text, or the code that the connection was closed with."""
        head = self._read.read(2)
        length = head[1] & 0x7F
        body = self._read.read(length)
        if head[0] & 0x0F == _CLOSE:
            return struct.unpack("!H", body[:2])[0]
        return body.decode()
