"""The receiver process as tests hold it, and listeners that count who comes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Self

from tests.kit.faketime import another_day
from tests.kit.service import CHECKOUT, eventually, free_port


class WebhookReceiver:
    """A context manager: the receiver runs until it is left. Its clock is ``ahead`` of ours."""

    def __init__(self, place: Path, *, ahead: timedelta = timedelta()) -> None:
        self.port = free_port()
        self._secrets = place / "secrets"
        self._log = place / "hits"
        place.mkdir(parents=True, exist_ok=True)
        self.knows()
        self._log.touch()
        self._environment = dict(os.environ) | (another_day(place, ahead) if ahead else {})

    def __enter__(self) -> Self:
        words = [sys.executable, "-m", "tests.kit.webhook_receiver", str(self.port), self._secrets, self._log]
        self._process = subprocess.Popen(words, cwd=CHECKOUT, env=self._environment, stdin=subprocess.DEVNULL)
        try:
            eventually(self._answers, "the receiver listens")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def url(self, path: str) -> str:
        """Where it answers as the path says: a status, or a word of `webhook_receiver.py`, or else as it verified."""
        return f"http://127.0.0.1:{self.port}{path}"

    def knows(self, *secrets: str) -> None:
        """The secrets that it verifies with, from now on."""
        draft = self._secrets.with_suffix(".new")
        draft.write_text("\n".join(secrets), encoding="ascii")
        draft.replace(self._secrets)

    def hits(self, path: str | None = None) -> list[dict[str, Any]]:
        """The requests that it got at that path, or at any."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [hit for hit in map(json.loads, lines) if path is None or hit["path"] == path]

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the receiver ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class Listener:
    """Listens on a port of the loopback, IPv4 and IPv6, and counts the connections that it gets."""

    def __init__(self) -> None:
        self.accepted = 0
        self._door = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port: int = self._door.getsockname()[1]
        self._thread = Thread(target=self._count, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more of them; all that came before are counted."""
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self._thread.join(timeout=10)

    def _count(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._door.accept()
                self.accepted += 1
                line.close()


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener until the block ends."""
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()
