"""Jobs: a slot is run once whoever leads, every run is on record, and a leader that is gone is replaced."""

import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import psycopg
import pytest
import structlog

from domain.errors import UnavailableError
from infrastructure.postgres.job_runs import PostgresJobRuns
from infrastructure.postgres.pool import Database
from infrastructure.scheduler import Job, JobRunner, Leader
from tests.kit.clock_steps import SteppedClock
from tests.kit.proxy import Line
from tests.kit.service import eventually

HOUR = timedelta(hours=1)


@pytest.fixture
def runs(database: Database) -> PostgresJobRuns:
    return PostgresJobRuns(database, host="test")


@pytest.fixture
def counted() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def runner(runs: PostgresJobRuns, counted: list[tuple[str, str]]) -> JobRunner:
    return JobRunner(runs, count=lambda name, result, _: counted.append((name, result)))


def test_of_any_number_of_leaders_one_runs_a_slot(runner: JobRunner, runs: PostgresJobRuns) -> None:
    """Eight threads at once, twice: one run, and its outcome on record; by hand it runs all the same."""
    done: list[int] = []
    job = Job(timedelta(days=3650), lambda: done.append(1) or 7)
    for _ in range(2):
        threads = [Thread(target=runner.run_scheduled, args=("sweep", job)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(done) == 1
    last = runs.latest(["sweep", "never"])
    assert list(last) == ["sweep"]
    assert (last["sweep"].outcome, last["sweep"].done, last["sweep"].by_hand) == ("done", 7, False)
    assert runner.run_by_hand("sweep", job) == 7
    assert runs.latest(["sweep"])["sweep"].by_hand


def test_a_run_that_fails_is_on_record_and_counted(
    runner: JobRunner, runs: PostgresJobRuns, counted: list[tuple[str, str]]
) -> None:
    """A fault, and a database that is away: each by its name, and the leader goes on."""

    def broken() -> int:
        raise ZeroDivisionError("as told")

    def away() -> int:
        raise UnavailableError("gone")

    runner.run_scheduled("broken", Job(HOUR, broken))
    runner.run_scheduled("away", Job(HOUR, away))
    last = runs.latest(["broken", "away"])
    assert (last["broken"].outcome, last["broken"].error) == ("failed", "ZeroDivisionError: as told")
    assert last["away"].outcome == "postponed"
    assert counted == [("broken", "failed"), ("away", "postponed")]
    with pytest.raises(ZeroDivisionError):
        runner.run_by_hand("broken", Job(HOUR, broken))


def test_the_history_is_pruned_by_age(database: Database, runs: PostgresJobRuns) -> None:
    """Quiet runs go after ten minutes, others after thirty days; a run that never ended was interrupted."""
    with database.cursor() as cursor:
        for job, ago, outcome, done in (
            ("quiet", "11 minutes", "done", 0),
            ("busy", "11 minutes", "done", 3),
            ("failed", "29 days", "failed", None),
            ("old", "31 days", "failed", None),
            ("lost", "2 hours", None, None),
        ):
            cursor.execute(
                "INSERT INTO jobs.runs (job, slot, by_hand, host, started_at, outcome, done)"
                " SELECT %s, t.at, false, 'test', t.at, %s, %s FROM (SELECT now() - %s::interval) AS t (at)",
                (job, outcome, done, ago),
            )
    assert runs.prune() == 1
    kept = runs.latest(["quiet", "busy", "failed", "old", "lost"])
    assert {name: run.outcome for name, run in kept.items()} == {
        "busy": "done", "failed": "failed", "lost": "interrupted",
    }  # fmt: skip


LEAD = """
import sys
from datetime import timedelta
from threading import Event
from infrastructure.postgres.job_runs import PostgresJobRuns
from infrastructure.postgres.pool import Database
from infrastructure.scheduler import Job, JobRunner, Leader
from tests.kit.service import eventually
conninfo, host = sys.argv[1:]
with Database(conninfo, size_max=2) as database:
    runner = JobRunner(PostgresJobRuns(database, host=host), count=lambda *_: None)
    job = Job(timedelta(milliseconds=200), lambda: 1)
    Leader(conninfo, jobs={"tick": job}, followers={}, runner=runner, tell_time=lambda *_: None).run(Event())
"""
HOSTS = "SELECT DISTINCT host FROM jobs.runs WHERE slot > (SELECT max(slot) FROM jobs.runs) - interval '400 ms'"


END_LEADERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'keyledger leader' AND datname = current_database()
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "standing still"])
def test_a_leader_that_is_gone_or_stands_still_is_replaced(
    conninfo: str, database: Database, runs: PostgresJobRuns, sign: signal.Signals
) -> None:
    """Another takes over by itself: of a killed one as soon as it asks, of a frozen one when its session is ended."""
    first = subprocess.Popen([sys.executable, "-c", LEAD, conninfo, "first"])
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            wait_for(connection, {"first"})
            stop, told = Flag(), list[tuple[float, datetime]]()
            second = JobRunner(PostgresJobRuns(database, host="second"), count=lambda *_: None)
            leader = Leader(
                conninfo,
                jobs={"tick": Job(timedelta(milliseconds=200), lambda: 1)},
                followers={},
                runner=second,
                tell_time=lambda at, now: told.append((at, now)),
            )
            thread = Thread(target=leader.run, args=(stop,))
            thread.start()
            try:
                first.send_signal(sign)
                wait_for(connection, {"second"})
            finally:
                stop.set()
                thread.join()
            assert told
    finally:
        first.kill()
        first.wait()
    assert runs.latest(["tick"])["tick"].outcome == "done"


@pytest.mark.parametrize("step", [-3600, 3600], ids=["back", "forth and back"])
def test_jobs_go_on_when_the_leaders_wall_clock_is_set(conninfo: str, tmp_path: Path, step: int) -> None:
    """PostgreSQL's stays: whatever the leader's machine shows, the next slots are run."""
    clock = SteppedClock(tmp_path)
    if not clock.is_available:
        pytest.skip("there is no C compiler to make a clock with")
    with clock.for_children():
        leader = subprocess.Popen([sys.executable, "-c", LEAD, conninfo, "stepped"])
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            wait_for(connection, {"stepped"})
            for seconds in (step, 0):
                clock.step(seconds)
                wait_for_more(connection)
    finally:
        leader.kill()
        leader.wait()


def wait_for_more(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Until a dozen runs more have begun: one or two may have been due by the clock as it was."""
    (began,) = connection.execute("SELECT count(*) FROM jobs.runs").fetchone() or (0,)
    eventually(
        lambda: (connection.execute("SELECT count(*) - %s FROM jobs.runs", [began]).fetchone() or (0,)) >= (12,),
        "the jobs go on",
    )


def test_slots_of_a_database_clock_that_was_set_back_are_run(runs: PostgresJobRuns, database: Database) -> None:
    """Five minutes of slots are there already: they are forgotten with the next run, and none is refused for them."""
    every = timedelta(milliseconds=200)
    with database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs.runs (job, slot, by_hand, host, started_at, ended_at, outcome, done)"
            " SELECT 'sweep', s.at, false, 'before', s.at + interval '100 ms', s.at, 'done', 0"
            " FROM (SELECT to_timestamp((floor(extract(epoch FROM now()) / 0.2) + n) * 0.2)"
            "       FROM generate_series(0, 1500) AS n) AS s (at)"
        )
        slots: set[datetime] = set()

        def claimed() -> bool:
            slot = runs.begin("sweep", every=every, by_hand=False)
            slots.update(() if slot is None else (slot,))
            return len(slots) == 2

        eventually(claimed, "two slots are run")
        row = cursor.execute("SELECT count(*) FROM jobs.runs WHERE slot > clock_timestamp()").fetchone()
    assert row == (0,)


def wait_for(connection: psycopg.Connection[tuple[object, ...]], hosts: set[str]) -> None:
    """Until the newest runs are of those hosts; a test that waits for ever is ended by its runner."""
    while {host for (host,) in connection.execute(HOSTS)} != hosts:
        connection.execute("SELECT pg_sleep(0.05)")


def test_a_job_that_takes_long_keeps_nobody_from_the_lead(conninfo: str, runner: JobRunner) -> None:
    """Broken off when the lead is lost, its next run is by whoever has it next; and so it is for a stop."""
    stop, broken_off, begun = Flag(), Flag(), list[int]()

    def takes_long() -> int:
        broken_off.clear()
        begun.append(1)
        broken_off.wait()
        return 0

    leader = Leader(
        conninfo,
        jobs={"long": Job(timedelta(milliseconds=200), takes_long, broken_off.set)},
        followers={},
        runner=runner,
        tell_time=lambda *_: None,
    )
    thread = Thread(target=leader.run, args=(stop,), daemon=True)
    thread.start()
    try:
        eventually(lambda: len(begun) == 1, "it has begun")
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(END_LEADERS)
        eventually(lambda: len(begun) == 2, "it has begun anew")
    finally:
        stop.set()
        eventually(lambda: not thread.is_alive(), "the leader has stopped")


def test_a_follower_that_ends_begins_anew(conninfo: str, runner: JobRunner) -> None:
    """The leader says so once, ends the others, too, and stands again."""
    stop, begun = Flag(), list[str]()

    def steady(deposed: Flag) -> None:
        begun.append("steady")
        deposed.wait()

    def ends_at_first(deposed: Flag) -> None:
        begun.append("weak")
        if begun.count("weak") > 1:
            deposed.wait()

    leader = Leader(
        conninfo,
        jobs={},
        followers={"steady": steady, "weak": ends_at_first},
        runner=runner,
        tell_time=lambda *_: None,
    )
    thread = Thread(target=leader.run, args=(stop,))
    with structlog.testing.capture_logs() as lines:
        thread.start()
        try:
            eventually(lambda: sorted(begun) == ["steady", "steady", "weak", "weak"], "both have begun anew")
        finally:
            stop.set()
            thread.join()
    assert [line["ended_followers"] for line in lines if line["event"] == "leadership_given_up"] == [["weak"]]


def test_who_no_longer_hears_the_database_leads_no_more(conninfo: str, runner: JobRunner) -> None:
    """Its session may be over, and another may lead; when the line is back it stands again."""
    stop, begun, ended = Flag(), list[int](), list[int]()

    def follow(deposed: Flag) -> None:
        begun.append(1)
        deposed.wait()
        ended.append(1)

    with Line(conninfo) as line:
        leader = Leader(
            line.conninfo, jobs={}, followers={"follower": follow}, runner=runner, tell_time=lambda *_: None
        )
        thread = Thread(target=leader.run, args=(stop,), daemon=True)
        thread.start()
        try:
            eventually(lambda: len(begun) == 1, "it leads")
            line.fall_silent()
            eventually(lambda: len(ended) == 1, "it leads no more")
            line.speak_again()
            eventually(lambda: len(begun) == 2, "it leads again")
        finally:
            stop.set()
            line.speak_again()
            eventually(lambda: not thread.is_alive(), "it has stopped")
