"""The servers under test: each one application of apps.py on the service's own granian, on cores of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path

import machine
from seed import Place

HERE = Path(__file__).resolve().parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0
QUIET_SECONDS_MAX = 10.0
HOST = "127.0.0.1"
OURS = ("keyledger", "unlogged")
_ports = count(18_100 + os.getpid() % 1_000)


@dataclass(frozen=True)
class Server:
    """A server that serves. ``place`` is None for one without a database of ours."""

    name: str
    port: int
    pid: int
    log: Path | None
    place: Place | None = None
    start_seconds: float = 0.0

    @property
    def url(self) -> str:
        """The beginning of its addresses."""
        return f"http://{HOST}:{self.port}"

    def workers(self) -> list[int]:
        """Its worker processes."""
        return [pid for pid in machine.children_of(self.pid) if "resource_tracker" not in machine.command_of(pid)]

    def cpu_seconds(self) -> float:
        """The processor time of all its processes."""
        return machine.cpu_seconds(machine.tree_of(self.pid))

    def await_quiet(self) -> None:
        """Returns when it does nothing any more: what it was asked last it answers into the next one's round."""
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            now = self.cpu_seconds()
            if now - before <= 0.02:  # noqa: PLR2004 - a fifth of the time
                return
            before = now

    def forget_log(self) -> None:
        """Empties its log: a line for each request fills a disk."""
        if self.log is not None:
            os.truncate(self.log, 0)

    def get(self, path: str, key: str | None = None) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own; OSError or HTTPException when there is none."""
        connection = HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def free_port() -> int:
    """A port that nobody has: granian would share one, also with the server of another bench."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise RuntimeError("no port is free")


@contextmanager
def serving(
    application: str,
    place: Place | None = None,
    *,
    data: Path,
    cores: Iterable[int] = machine.SERVER_CORES,
    jobs: bool = True,
    **settings: object,
) -> Generator[Server]:
    """A server of ``application`` with the service's settings, by their fields' names, until the block ends.

    ``jobs``: with the background process, which settles what is used, on the load's core; where the server has both
    cores, on both. RuntimeError when it does not come up.
    """
    port = free_port()
    name = f"{application}.{port}"
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = _environment(place, data, {"port": port} | settings)
    with ExitStack() as stack:
        began = time.monotonic()
        server = _started(
            stack, [sys.executable, str(HERE / "serve.py"), application], logs / f"{name}.log", environment, cores
        )
        _await_answer(port, server, logs / f"{name}.log", "/health/ready" if application in OURS else "/")
        ready = time.monotonic() - began
        if jobs and application in OURS:
            work = [sys.executable, "-m", "interfaces.cli.main", "work"]
            beside = cores if cores == machine.BOTH_CORES else machine.LOAD_CORES
            _started(stack, work, logs / f"{name}.work.log", environment, beside)
        yield Server(name, port, server.pid, logs / f"{name}.log", place, ready)


def _started(
    stack: ExitStack, words: list[str], log: Path, environment: dict[str, str], cores: Iterable[int]
) -> "subprocess.Popen[bytes]":
    with log.open("wb") as cleared, log.open("ab") as said, machine.on_cores(cores):
        del cleared
        process = subprocess.Popen(  # noqa: S603 - our own
            words, env=environment, cwd=machine.CHECKOUT, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    stack.callback(_stop, process)
    return process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in machine.tree_of(process.pid)[1:]:
            os.kill(pid, 9)
        process.kill()
        process.wait()


def _environment(place: Place | None, data: Path, settings: dict[str, object]) -> dict[str, str]:
    given = {"data_dir": data / "unused", "host": HOST, "access_log_durability": "buffered", "log_format": "json"}
    if place is not None:
        given |= {"database_url": place.conninfo, "secret_keys": place.secret.hex()}
    given |= settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    return environment | {f"KEYLEDGER_{name.upper()}": str(value) for name, value in given.items()}


def _await_answer(port: int, process: "subprocess.Popen[bytes]", log: Path, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port, path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.stem} does not serve:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.005)


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return status < 500 if path == "/" else status == 200  # noqa: PLR2004 - any answer, or readiness
