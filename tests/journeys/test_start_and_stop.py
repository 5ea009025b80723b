"""Starting, stopping and surviving: what a person at a terminal sees, and what stays behind."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
import pytest

from tests.kit.http import NoAnswerError
from tests.kit.service import DEADLINE_SECONDS, HOST, KEY, Service, eventually

pytestmark = pytest.mark.journey


def is_stopped(service: Service) -> bool:
    """Whether nothing of it is left, its PostgreSQL included."""
    return not service.processes() and service.postmaster() is None


def works(service: Service) -> bool:
    """Whether the first key is accepted now."""
    with service.client(service.demo_key) as client:
        try:
            return client.get("/api/campaigns").status == 200
        except NoAnswerError:
            return False


def test_root_secrets_that_are_given_are_those_of_all_its_processes(place: Path) -> None:
    """The first key is made by one process under the newest of them, and accepted by another; no others are made."""
    with Service(place, secret_keys="5e" * 32) as service:
        assert works(service)
        assert not (service.data_dir / "secret.keys").exists()


def test_the_first_start_prints_a_key_once_and_the_second_keeps_everything(place: Path) -> None:
    """The printed curl line works as it stands; SIGTERM ends all; the next start prints no key; SIGINT ends all."""
    with Service(place) as service:
        key = service.demo_key
        lines = service.output.read_text(encoding="utf-8").splitlines()
        assert [line.strip() for line in lines].count(key) == 1
        (line,) = [line for line in lines if line.strip().startswith("curl ")]
        shown = subprocess.run(
            ["bash", "-c", f"{line} --silent --fail"], capture_output=True, check=True, timeout=DEADLINE_SECONDS
        ).stdout
        assert b"Backend engineers" in shown
        with service.client(key) as client:
            made = client.done("POST", "/api/campaigns", {"name": "Kept"})
            # The connection stays open: an idle client does not hold up the stop.
            assert service.stop(signal.SIGTERM) == 0
        assert is_stopped(service)

        printed = service.output.read_bytes()
        service.start()
        with service.client(key) as client:
            assert client.done("GET", f"/api/campaigns/{made['id']}") == made
        assert service.stop(signal.SIGINT) == 0
        assert is_stopped(service)
        assert service.output.read_bytes() == printed


def test_a_stop_during_the_start_leaves_nothing(place: Path) -> None:
    """SIGTERM between the start of PostgreSQL and the first answer: all of it ends, and the next start works."""
    service = Service(place)
    try:
        service.launch()
        eventually(lambda: service.postmaster() is not None, "PostgreSQL runs")
        assert service.stop() == 0
        assert is_stopped(service)
        service.start()
        assert works(service)
    finally:
        service.close()


def test_a_port_in_use_is_said_and_starts_nothing(place: Path) -> None:
    """Exit code 5 and one line that names the address and the setting; no key is made that nobody gets to see."""
    service = Service(place)
    with socket.create_server((HOST, service.port)):
        service.launch()
        assert service.wait() == 5
    said = service.errors.read_text(encoding="utf-8").splitlines()
    assert said == [f"keyledger: {HOST}:{service.port} is in use (KEYLEDGER_PORT)"]
    assert not service.output.read_bytes()
    assert is_stopped(service)


def test_without_the_demo_there_is_no_account(place: Path) -> None:
    """KEYLEDGER_DEMO=0: it serves, prints nothing on stdout, and its ledger is empty."""
    with Service(place, demo=0) as service:
        with service.client() as client:
            assert client.get("/health/ready").status == 200
            assert client.get("/api/campaigns").status == 401
        with psycopg.connect(service.conninfo) as connection:
            events = connection.execute("SELECT topic FROM ledger.events WHERE topic NOT LIKE 'usage%'").fetchall()
        assert events == []
        assert not service.output.read_bytes()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Service]:
    """A service whose processes are killed one after another."""
    with TemporaryDirectory(prefix="keyledger-") as directory:
        with Service(Path(directory), workers=2, settlement_window_seconds=1) as service:
            yield service
        assert KEY.findall(service.output.read_text(encoding="utf-8")) == [service.demo_key] * 2


def test_a_killed_worker_is_replaced(mortal: Service) -> None:
    """SIGKILL to one serving process: there are two again, and both serve."""
    before = mortal.workers()
    assert len(before) == 2
    before[0].kill()
    eventually(lambda: is_replaced(mortal.workers(), before[:1], 2), "the worker is replaced")
    eventually(lambda: works(mortal), "it serves")
    clients = mortal.client_of_each_worker(mortal.demo_key)
    assert len(clients) == 2
    for client in clients.values():
        client.close()


def test_a_killed_background_process_is_replaced(mortal: Service) -> None:
    """SIGKILL to the process that leads the jobs: another one leads, and use is settled again."""
    before = mortal.background()
    assert len(before) == 1
    before[0].kill()
    eventually(lambda: is_replaced(mortal.background(), before, 1), "the background process is replaced")
    with mortal.client(mortal.demo_key) as client:
        key = client.done("POST", "/api/keys", {"name": "Used later", "environment": "live"})
        assert client.get("/api/campaigns", key=key["key"]).status == 200

        def types() -> list[str]:
            return [event["type"] for event in client.pages(f"/api/keys/{key['id']}/events")]

        eventually(lambda: "key.used" in types(), "the use is settled")


def test_serving_goes_on_while_the_background_process_dies_again_and_again(mortal: Service) -> None:
    """SIGKILL as soon as it is there, three times and more: serving stays, health says it, pauses grow, one leads."""
    serving = {process.pid for process in mortal.workers()}
    while max(pauses(mortal), default=0) < 4:
        eventually(mortal.background, "there is a background process")
        before = len(pauses(mortal))
        mortal.background()[0].kill()
        eventually(lambda before=before: len(pauses(mortal)) > before, "its end is said")
        assert works(mortal)
    assert pauses(mortal)[-3:] == [1, 2, 4]
    eventually(lambda: leader(mortal) == "no background process leads", "health says that nobody leads")
    eventually(lambda: leader(mortal) == "ok", "another one leads")
    assert {process.pid for process in mortal.workers()} == serving


def pauses(service: Service) -> list[int]:
    """The seconds before each new start of the background process."""
    lines = service.errors.read_text(encoding="utf-8").splitlines(keepends=True)
    ends = [json.loads(line) for line in lines if '"process_ended"' in line and line.endswith("\n")]
    return [end["starts_again_in_seconds"] for end in ends if end["process"] == "work"]


def leader(service: Service) -> str:
    """What the health page says of the leader."""
    with service.client() as client:
        return client.get("/health/ready").json()["views"]["leader"]


def test_a_killed_postgres_is_started_again(mortal: Service) -> None:
    """SIGKILL to PostgreSQL: the service refuses while it is away, starts it, and serves again by itself."""
    processes = {process.pid for process in mortal.processes()}
    mortal.kill_postgres()
    eventually(lambda: mortal.postmaster() is not None and works(mortal), "it serves again")
    assert {process.pid for process in mortal.processes()} == processes


def test_a_killed_server_takes_its_workers_along_and_is_replaced(mortal: Service) -> None:
    """SIGKILL to the serving workers' parent: no orphan keeps the port, and new workers serve."""
    before = mortal.workers()
    parent = before[0].parent()
    assert parent is not None
    parent.kill()
    eventually(lambda: is_replaced(mortal.workers(), before, 2) and works(mortal), "new workers serve")


def test_a_killed_supervisor_leaves_nothing_serving(mortal: Service) -> None:
    """SIGKILL to the supervisor alone: all its processes end by themselves; the next start adopts PostgreSQL."""
    mortal.kill_supervisor()
    postmaster = mortal.postmaster()
    assert postmaster is not None
    assert not works(mortal)
    mortal.start()
    assert works(mortal)
    assert mortal.postmaster() == postmaster


def test_a_supervisor_killed_during_the_start_leaves_nothing_serving(mortal: Service) -> None:
    """SIGKILL to the supervisor as soon as it has started another process: that ends, too, and the next start works."""
    assert mortal.stop() == 0
    mortal.launch()
    eventually(lambda: len(mortal.processes()) > 1, "another process runs")
    mortal.kill_supervisor()
    mortal.start()
    assert works(mortal)


def is_replaced(now: list[psutil.Process], before: list[psutil.Process], count: int) -> bool:
    """Whether there are as many as there should be, and none of those from before."""
    return len(now) == count and not {process.pid for process in now} & {process.pid for process in before}
