"""A receiver of webhooks, a process of its own: `python -m tests.kit.webhook_receiver PORT SECRETS LOG`.

It verifies what it is sent with the `standardwebhooks` package, under each of the secrets in the file (one a line, read
anew for each request), and answers as its path asks. LOG gets one JSON line a request.
"""

import gzip
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

GIGABYTE = 2**30
CHUNK = b"x" * 65_536
DRIPS = 600
BOMB = gzip.compress(bytes(100 * 2**20), 9)


class Receiver(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    secrets: Path
    log: Path
    lock = Lock()

    def do_POST(self) -> None:
        """Reads, verifies, answers, and says so."""
        body = self.rfile.read(int(self.headers["content-length"]))
        asked = urlsplit(self.path)
        hit: dict[str, Any] = {
            "at": time.time(),
            "path": asked.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode(),
            "verified_by": self._verified_by(body),
        }
        answers: dict[str, Callable[[], None]] = {
            "/301": lambda: self._answer(301, {"Location": parse_qs(asked.query)["to"][0]}),
            "/429": lambda: self._answer(429, {"Retry-After": parse_qs(asked.query)["after"][0]}),
            "/drip": self._drip,
            "/drip-head": self._drip_head,
            "/huge": self._huge,
            "/head": self._endless_head,
            "/bomb": lambda: self._answer(200, {"Content-Encoding": "gzip"}, BOMB),
        }
        self.close_connection = True
        self._say(hit)
        with suppress(OSError):
            if asked.path in answers:
                answers[asked.path]()
            elif asked.path.strip("/").isdigit():
                self._answer(int(asked.path.strip("/")))
            else:
                self._answer(204 if hit["verified_by"] is not None else 401)

    def log_message(self, *_: object) -> None:
        """The log file says it."""

    def _say(self, hit: dict[str, Any]) -> None:
        with self.lock, self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(hit) + "\n")

    def _verified_by(self, body: bytes) -> int | None:
        for number, secret in enumerate(self.secrets.read_text(encoding="ascii").split()):
            with suppress(WebhookVerificationError):
                Webhook(secret).verify(body, dict(self.headers.items()))
                return number
        return None

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(DRIPS))
        self.end_headers()
        self._slowly(b"x" * DRIPS)

    def _drip_head(self) -> None:
        self._slowly(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * DRIPS)

    def _slowly(self, text: bytes) -> None:
        for byte in text:
            self.wfile.write(bytes((byte,)))
            self.wfile.flush()
            time.sleep(1)

    def _huge(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(GIGABYTE))
        self.end_headers()
        for _ in range(GIGABYTE // len(CHUNK)):
            self.wfile.write(CHUNK)

    def _endless_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(GIGABYTE // 1024):
            self.wfile.write(b"X-%d: " % number + b"x" * 1024 + b"\r\n")


class Server(ThreadingHTTPServer):
    """Many at once, and nobody is waited for at the end."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    port, Receiver.secrets, Receiver.log = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    Server(("127.0.0.1", port), Receiver).serve_forever()
