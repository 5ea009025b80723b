"""The leader of the jobs is killed with SIGKILL in the middle of sweeps: another goes on, and no step is done twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Self

import psycopg
import pytest

from application.ledger import Ledger
from infrastructure.postgres.pool import Database
from infrastructure.system import SystemClock
from tests.kit.builders import a_key, an_account
from tests.kit.service import CHECKOUT, eventually
from tests.kit.workflow import open_ledger

pytestmark = pytest.mark.journey

ROUNDS, ROUNDS_FULL = 3, 50
KEYS = 150
OVERDUE = timedelta(days=91)
LEADER = """
    SELECT a.application_name, r.host FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    CROSS JOIN LATERAL (SELECT host FROM jobs.runs WHERE by_hand IS FALSE ORDER BY started_at DESC LIMIT 1) AS r
    WHERE l.locktype = 'advisory' AND l.objid = 7310308 AND l.granted
"""
FLAGGED = "SELECT count(*) FROM views.keys WHERE rotation_flagged"
NOTIFIED = "SELECT count(*) FROM ledger.events WHERE topic = 'rotation.notified'"
NEXT_RUN = "SELECT min(started_at) FROM jobs.runs WHERE started_at > %(since)s AND host NOT LIKE %(dead)s"
STORY = """
    SELECT kind, topics, count(*) FROM (
        SELECT left(stream_id, 3) AS kind, string_agg(topic, ' ' ORDER BY version) AS topics
        FROM ledger.events WHERE stream_id LIKE 'key\\_%' OR stream_id LIKE 'rot\\_%' GROUP BY stream_id
    ) AS streams GROUP BY kind, topics
"""


class Background:
    """Background processes on one database, two of them alive at any time."""

    def __init__(self, conninfo: str, place: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        self._environment = inherited | {
            "KEYLEDGER_DATABASE_URL": conninfo,
            "KEYLEDGER_SECRET_KEYS": "5e" * 32,
            "KEYLEDGER_DATA_DIR": str(place),
        }
        self._log = place / "work.log"
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts one more."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "interfaces.cli.main", "work"],
                cwd=CHECKOUT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes[process.pid] = process

    def kill(self, pid: int) -> None:
        """Kills that one."""
        process = self.processes.pop(pid)
        process.kill()
        process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=30)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database) as opened:
        opened.append(an_account())
        yield opened


def leader(connection: psycopg.Connection[tuple[object, ...]], background: Background) -> int | None:
    """The process id of the one that leads and has run a job; None while nobody does."""
    row = connection.execute(LEADER).fetchone()
    pid = None if row is None else int(str(row[1]).rpartition(":")[2])
    return pid if pid in background.processes else None


def number(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    """The count that a query answers."""
    row = connection.execute(query.encode()).fetchone()
    return int(str(row[0])) if row else 0


def test_a_leader_killed_in_a_sweep_leaves_no_step_undone_or_twice(
    conninfo: str, ledger: Ledger, place: Path, full: bool
) -> None:
    """Killed while keys are flagged and owners notified, again and again: each key flagged and told of once."""
    numbers, gaps = count(1), list[float]()
    rounds = ROUNDS_FULL if full else ROUNDS
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(conninfo, autocommit=True))
        background = stack.enter_context(Background(conninfo, place))
        background.start()
        for done in range(rounds):
            background.start()
            eventually(lambda: leader(connection, background) is not None, "somebody leads")
            made = SystemClock().now() - OVERDUE
            ledger.append(*(a_key(number=next(numbers), at=made) for _ in range(KEYS)))
            # In the middle: of the flags in every other round, of the notices in the others.
            middle = done * KEYS + 1 + (done * 37) % (KEYS - 1)
            watched = FLAGGED if done % 2 else NOTIFIED
            while number(connection, watched) < middle:
                pass
            pid = leader(connection, background)
            if pid is not None:
                killed_at = killed(connection, background, pid)
                gaps.append(gap(connection, killed_at, pid))
            eventually(lambda total=(done + 1) * KEYS: number(connection, NOTIFIED) >= total, "all are told of")
        stories = {(kind, topics): streams for kind, topics, streams in connection.execute(STORY)}
    assert stories == {
        ("key", "key.created key.rotation_due"): rounds * KEYS,
        ("rot", "rotation.began rotation.notified workflow.scheduled"): rounds * KEYS,
    }
    assert len(gaps) >= rounds * 0.8
    figures = f"{len(gaps)} leaders killed, longest gap {max(gaps):.2f} s, median {sorted(gaps)[len(gaps) // 2]:.2f} s"
    print(f"\n{figures}, {rounds * KEYS} keys")  # noqa: T201 - the round's figures, shown by `pytest -s`


def killed(connection: psycopg.Connection[tuple[object, ...]], background: Background, pid: int) -> datetime:
    """Kills the leader; when, by the database's clock."""
    background.kill(pid)
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    at = row[0]
    assert isinstance(at, datetime)
    return at


def gap(connection: psycopg.Connection[tuple[object, ...]], killed_at: datetime, pid: int) -> float:
    """Seconds until another process ran a job."""

    def next_run() -> datetime | None:
        row = connection.execute(NEXT_RUN, {"since": killed_at, "dead": f"%:{pid}"}).fetchone()
        return row[0] if row is not None and isinstance(row[0], datetime) else None

    eventually(lambda: next_run() is not None, "another leads")
    at = next_run()
    assert at is not None
    return (at - killed_at).total_seconds()
