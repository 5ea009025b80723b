"""The disk of PostgreSQL is full: no answer without its row, and with room again the service serves by itself."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.journeys.loaded import scene
from tests.kit.service import Service, eventually

pytestmark = pytest.mark.journey

DISK_BYTES = 400 * 2**20


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of its own below the place, for the data directory."""
    disk = place / "data"
    disk.mkdir(mode=0o711)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk takes root, who may mount one")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0711", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def no_room_on(disk: Path) -> Iterator[None]:
    """No byte is free, until the block ends."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def crash_for_want_of_room(service: Service) -> None:
    """PostgreSQL needs the next file of its write-ahead log, has no room for it, and ends, as it must."""
    with suppress(psycopg.Error), psycopg.connect(service.conninfo, autocommit=True) as connection:
        while True:
            connection.execute("SELECT pg_switch_wal(), txid_current()")


@pytest.mark.parametrize("durability", ["commit", "buffered"])
def test_a_full_disk_is_survived(small_disk: Path, durability: str, full: bool) -> None:
    """Refusals while it is full, also with PostgreSQL ended by it; then answers again, every one with its row."""
    if durability == "buffered" and not full:
        pytest.skip("one of the two will do; `ops/test --full` does both")
    with scene(small_disk, durability) as running:
        load, service = running.load, running.service
        with no_room_on(service.data_dir):
            crash_for_want_of_room(service)
            eventually(lambda: service.postmaster() is None, "PostgreSQL has ended")
            since = len(load.answers)
            eventually(lambda: load.count(503, since=since) >= 4 * load.callers, "requests are refused")
            kept_down = len(load.answers)
            eventually(lambda: load.count(503, since=kept_down) >= 4 * load.callers, "they still are")
            if durability == "commit":
                assert load.count(200, since=since + load.callers) == 0
        since = len(load.answers)
        eventually(lambda: load.count(since=since) >= 4 * load.callers, "requests are answered again")
        load.stop()
        answered = {answer.request_id for answer in load.answers if answer.status == 200}
        eventually(lambda: answered <= running.rows(), "every answer has its row")
        eventually(running.is_settled, "all rows are settled")
        assert load.unanswered == []
    print(f"{durability}: {running.told()}, {load.count(503)} refused, {len(answered)} rows")  # noqa: T201 - figures
