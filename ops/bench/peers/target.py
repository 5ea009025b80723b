"""A peer as a driver sees it: its commands, its running server, and connections to each of its workers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from contract import Prepared, SampleKey
from psycopg.conninfo import conninfo_to_dict
from run import HERE

START_SECONDS = 60.0
STOP_SECONDS = 15.0
HTTP_OK = 200


@dataclass(frozen=True)
class Target:
    """A peer, where its packages are, and its own database."""

    name: str
    data: Path
    conninfo: str

    def run(self, verb: str, *words: str) -> list[str]:
        """The command of a verb."""
        return [sys.executable, str(HERE / "run.py"), self.name, verb, "--data", str(self.data), *words]

    def environment(self) -> dict[str, str]:
        """Ours, with libpq's variables naming the database."""
        parts = conninfo_to_dict(self.conninfo)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
        return os.environ | {name: str(parts[part]) for part, name in names.items() if parts.get(part)}

    def answer(self, verb: str, *words: str) -> str:
        """The line of JSON that a verb prints."""
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            self.run(verb, *words), env=self.environment(), check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.splitlines()[-1]


@contextmanager
def serving(target: Target, port: int, workers: int) -> Generator[None]:
    """A running server, ready; ended with SIGTERM. Errors: RuntimeError when it does not come up."""
    words = target.run("serve", "--port", str(port), "--workers", str(workers))
    # A session of its own, so that workers whose parent had to be killed go with it and do not keep the port.
    server = subprocess.Popen(words, env=target.environment(), start_new_session=True)  # noqa: S603 - fixed words
    try:
        deadline = time.monotonic() + START_SECONDS
        while get(port, "/pid") is None:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{target.name} does not serve on port {port}")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def prepare(target: Target, keys: int, sample: int) -> Prepared:
    """Fill the target's empty database."""
    made = json.loads(target.answer("prepare", "--keys", str(keys), "--sample", str(sample)))
    return Prepared(made["header"], [SampleKey(**one) for one in made["keys"]])


def get(port: int, path: str, headers: dict[str, str] | None = None) -> bytes | None:
    """The body of a 200 over a connection of its own; None for anything else."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        return ask(connection, path, headers or {})
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def ask(connection: HTTPConnection, path: str, headers: dict[str, str]) -> bytes | None:
    """The body of a 200 over this connection; None for another status. Errors: OSError, HTTPException."""
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    return body if response.status == HTTP_OK else None


def connect_each(port: int, workers: int, each: int) -> list[tuple[HTTPConnection, int]]:
    """Kept-alive connections, so many to each worker, with its pid; the kernel deals them, so ask until all are had."""
    had: dict[int, list[HTTPConnection]] = {}
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        pid = int(ask(connection, "/pid", {}) or 0)
        connection.auto_open = 0  # a new connection could go to another worker: rather fail than mix them up
        if len(had.setdefault(pid, [])) < each:
            had[pid].append(connection)
        else:
            connection.close()
            time.sleep(0.01)
        if len(had) == workers and all(len(some) == each for some in had.values()):
            return [(one, pid) for pid, some in had.items() for one in some]
    raise RuntimeError(f"of {workers} workers {len(had)} answered")
