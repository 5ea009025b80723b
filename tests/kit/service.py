"""A running Keyledger for tests: `keyledger serve` over real processes, in a data directory of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg

from infrastructure.embedded_postgres import EmbeddedPostgres
from tests.kit.faketime import another_day
from tests.kit.http import Answer, Client

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.02
KEY = re.compile(r"\bsk_(?:live|staging|dev)_[0-9A-Za-z]{9}_[0-9A-Za-z]{43}\b")

# Below the ports that systems give to outgoing connections: none of those can take it while the service is down. Every
# second one, so that the two halves of a whole run (`ops/test`) never meet.
_ports = count(20_000 + os.getpid() % 5_000 * 2 + int(os.environ.get("KEYLEDGER_TEST_HALF", "0")), 2)


def free_port() -> int:
    """A port that nobody listens on, another one for each call."""
    for port in _ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise AssertionError("no port is free")


def eventually(holds: Callable[[], Any], what: str) -> None:
    """Waits until it holds; AssertionError with ``what`` after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"{DEADLINE_SECONDS:.0f} s passed without this: {what}")
        time.sleep(POLL_SECONDS)


class Service:
    """One service in ``place``, started by entering; leaving stops it and its PostgreSQL, and fails if anything stays.

    ``settings`` are those of `interfaces.settings`, by their fields' names. Processes are found by the data directory
    in their environment, so that orphans of a killed supervisor are found, too. ``output`` and ``errors`` hold what
    all starts have written.
    """

    def __init__(self, place: Path, **settings: object) -> None:
        self.data_dir = place / "data"
        self.output = place / "stdout"
        self.errors = place / "stderr"
        self.port = free_port()
        # Tests fail to authenticate more often than a client may.
        defaults: dict[str, object] = {"BCRYPT_COST": 10, "FAILED_ATTEMPTS_PER_MINUTE": 1_000_000}
        self._settings = defaults | {name.upper(): value for name, value in settings.items()}
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- start and stop

    def launch(self, *, ahead: timedelta = timedelta()) -> subprocess.Popen[bytes]:
        """Starts the process and waits for nothing; its clock, and its PostgreSQL's, is that much ahead of ours."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        settings = {"DATA_DIR": self.data_dir, "HOST": HOST, "PORT": self.port} | self._settings
        environment |= {f"KEYLEDGER_{name}": str(value) for name, value in settings.items()}
        if ahead:
            environment |= another_day(self.output.parent, ahead)
        with self.output.open("ab") as output, self.errors.open("ab") as errors:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "interfaces.cli.main", "serve"],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )
        return self._supervisor

    def start(self, *, ahead: timedelta = timedelta()) -> None:
        """Starts it, on the same data directory and port each time, and returns once it says that it serves.

        ``ahead``: how much later it is for it.
        """
        said = self.errors.stat().st_size if self.errors.exists() else 0
        process = self.launch(ahead=ahead)

        def serves() -> bool:
            words = self.errors.read_bytes()[said:]
            if process.poll() is not None:
                raise AssertionError(f"the service ended with {process.returncode}:\n{words.decode()}")
            return b"Keyledger serves on" in words

        eventually(serves, "the service serves")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks the supervisor alone to end, as a terminal or an init system does; its exit code."""
        assert self._supervisor is not None
        self._supervisor.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for the supervisor's end; its exit code."""
        assert self._supervisor is not None
        code = self._supervisor.wait(timeout=DEADLINE_SECONDS)
        self._supervisor = None
        return code

    def close(self) -> None:
        """Ends whatever still runs; AssertionError when something stays behind."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            self._supervisor.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(timeout=DEADLINE_SECONDS)
        self.kill()
        if self.postmaster() is not None:
            with EmbeddedPostgres(self.data_dir, say=lambda _: None):
                pass  # the last user to leave stops it
        assert self.postmaster() is None, "PostgreSQL was left behind"

    # -- sudden ends

    def kill(self, first: Sequence[psutil.Process] = ()) -> None:
        """SIGKILL to the supervisor and all its descendants, to ``first`` before the others.

        PostgreSQL goes on: it is nobody's child, and the next start adopts it.
        """
        for victim in first:
            _kill(victim)
        eventually(lambda: not [_kill(victim) for victim in self.processes()], "all processes are gone")
        self._reap()

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone; returns once it and what ends with it are gone."""
        assert self._supervisor is not None
        self._supervisor.kill()
        self._reap()
        eventually(lambda: not self.processes(), "no process outlives its supervisor")

    def kill_postgres(self) -> None:
        """SIGKILL to PostgreSQL's main process; returns once it is gone."""
        pid = self.postmaster()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.postmaster() is None, "PostgreSQL is gone")

    def _reap(self) -> None:
        if self._supervisor is not None:
            self._supervisor.wait(timeout=DEADLINE_SECONDS)
            self._supervisor = None

    # -- its processes

    def processes(self) -> list[psutil.Process]:
        """All living processes but PostgreSQL's."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def workers(self) -> list[psutil.Process]:
        """The processes that serve HTTP, not the one that started them; empty while there is none."""
        servers = self._children("interfaces.http.server")
        with suppress(psutil.NoSuchProcess):
            return [worker for server in servers for worker in server.children() if self._is_ours(worker)]
        return []

    def background(self) -> list[psutil.Process]:
        """The process that runs the jobs; empty while there is none."""
        return self._children("work")

    def postmaster(self) -> int | None:
        """The process id of this data directory's PostgreSQL; None when it does not run."""
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            pid = int((self.data_dir / "postgres" / "postmaster.pid").read_text(encoding="ascii").split()[0])
            if str(self.data_dir / "postgres") in psutil.Process(pid).cmdline():
                return pid
        return None

    def _children(self, last_word: str) -> list[psutil.Process]:
        assert self._supervisor is not None
        found: list[psutil.Process] = []
        for child in psutil.Process(self._supervisor.pid).children():
            with suppress(psutil.Error):
                if child.cmdline()[-1:] == [last_word] and self._is_ours(child):
                    found.append(child)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        # A process that has ended, or that is somebody else's, shows no environment.
        with suppress(psutil.Error):
            return process.environ().get("KEYLEDGER_DATA_DIR") == str(self.data_dir)
        return False

    # -- what it gives

    @property
    def url(self) -> str:
        """The beginning of every address."""
        return f"http://{HOST}:{self.port}"

    @property
    def conninfo(self) -> str:
        """The conninfo of its database, whoever runs it."""
        return EmbeddedPostgres(self.data_dir, say=lambda _: None).conninfo

    @property
    def demo_key(self) -> str:
        """The key that the first start prints."""
        # It is printed after the line that `start` waits for.
        eventually(lambda: KEY.search(self.output.read_text(encoding="utf-8")), "the first key is printed")
        return KEY.findall(self.output.read_text(encoding="utf-8"))[0]

    def client(self, key: str | None = None) -> Client:
        """A client of this service."""
        return Client(HOST, self.port, key=key)

    def run_of(self, answer: Answer) -> str:
        """The run of the worker that gave this answer of a protected route."""
        with psycopg.connect(self.conninfo) as connection:
            row = connection.execute(
                "SELECT run_id FROM usage.access_log WHERE request_id = %s", [answer.headers["x-request-id"]]
            ).fetchone()
        assert row is not None, "the request left no access row"
        return row[0]

    def client_of_each_worker(self, key: str) -> dict[str, Client]:
        """By run, one client for each worker; its connection stays with that worker for as long as it is open."""
        found: dict[str, Client] = {}
        others: list[Client] = []

        def is_complete() -> bool:
            client = self.client(key)
            run = self.run_of(client.get("/api/campaigns"))
            if run in found:
                others.append(client)  # kept open, so that the next one has a reason to go elsewhere
            else:
                found[run] = client
            return len(found) == len(self.workers())

        eventually(is_complete, "each worker takes a connection")
        for other in others:
            other.close()
        return dict(sorted(found.items()))


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
