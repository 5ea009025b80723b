"""The clock of the jobs: one leader per database runs them, on APScheduler, and each run is on record.

Leadership is a session's advisory lock on a connection of its own: it ends with the connection, so a dead leader is
replaced as soon as PostgreSQL notices, and a leader that loses its connection stops its jobs. One that stands still is
taken for dead after ``SILENCE``. The lock alone makes nothing happen once: of two leaders one gets a job's slot
(``jobs.runs``), and jobs are level-triggered, so a slot that was lost with its leader is made up for by the next.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from threading import Thread
from time import perf_counter
from typing import Protocol

import psycopg
import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from domain.errors import UnavailableError
from infrastructure.postgres.freshness import elapsed
from infrastructure.postgres.pool import PatientConnection
from infrastructure.system import SystemClock

HEARTBEAT = timedelta(seconds=1)
SILENCE = timedelta(seconds=5)
MISFIRE_GRACE = timedelta(hours=6)
INTERRUPT_AGAIN = timedelta(milliseconds=50)
STEP = timedelta(seconds=1)
"""So far apart the wall clock and the steady one move only when somebody sets the wall clock."""

CountRun = Callable[[str, str, float], None]
"""Told of each run: the job, ``done``, ``postponed`` or ``failed``, and its seconds."""

TellTime = Callable[[float, datetime], None]
"""Told what the database's clock said, and when it was asked, in seconds of ``elapsed``."""

log = structlog.get_logger()


class JobRuns(Protocol):
    """The history of runs."""

    def begin(self, job: str, *, every: timedelta, by_hand: bool) -> datetime | None:
        """Claims the slot of this moment; None when somebody has it already. By hand it always is another."""
        ...

    def end(self, job: str, slot: datetime, *, outcome: str, done: int | None, error: str | None) -> None:
        """Puts on record how the run of that slot ended."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A job: how often it runs, and what it does; the answer is the number of things it did."""

    every: timedelta
    run: Callable[[], int]
    interrupt: Callable[[], None] | None = None
    """Ends a run early, which the next one makes good; called again and again until none is under way."""


class JobRunner:
    """Runs one job at a time to its end, and puts on record that and how it ran."""

    def __init__(self, runs: JobRuns, *, count: CountRun) -> None:
        self._runs = runs
        self._count = count

    def run_by_hand(self, name: str, job: Job) -> int:
        """Runs it now, whoever else does; the number of things that it did. Whatever it raises is raised."""
        slot = self._runs.begin(name, every=job.every, by_hand=True)
        if slot is None:  # two by hand in one microsecond
            raise UnavailableError("The job is being run")
        return self._run(name, job, slot)

    def run_scheduled(self, name: str, job: Job) -> None:
        """Runs it unless its slot has been run; what it raises is on record and in the log, and nowhere else."""
        began = perf_counter()
        try:
            slot = self._runs.begin(name, every=job.every, by_hand=False)
            if slot is None:
                return
            done = self._run(name, job, slot)
        except UnavailableError as error:
            log.warning("job_postponed", job=name, reason=error.message)
            self._count(name, "postponed", perf_counter() - began)
        except Exception:
            # Said here and on record: one failing job must not stop the others, and its next slot tries again.
            log.exception("job_failed", job=name)
            self._count(name, "failed", perf_counter() - began)
        else:
            if done:
                log.info("job_done", job=name, done=done)
            self._count(name, "done", perf_counter() - began)

    def _run(self, name: str, job: Job, slot: datetime) -> int:
        try:
            done = job.run()
        except Exception as error:
            outcome = "postponed" if isinstance(error, UnavailableError) else "failed"
            with suppress(UnavailableError):  # the history alone is lost
                self._runs.end(name, slot, outcome=outcome, done=None, error=f"{type(error).__name__}: {error}"[:300])
            raise
        self._runs.end(name, slot, outcome="done", done=done, error=None)
        return done


class _Schedule:
    """APScheduler with every job: due at once, and from then on with each slot."""

    def __init__(self, jobs: Mapping[str, Job], run: Callable[[str, Job], None]) -> None:
        self._jobs = jobs
        self._wall = _wall_seconds()
        self._scheduler = BackgroundScheduler(timezone="UTC")
        now = SystemClock().now()
        for name, job in jobs.items():
            self._scheduler.add_job(  # pyright: ignore[reportUnknownMemberType] - apscheduler 3 has no types
                run,
                "interval",
                args=(name, job),
                seconds=job.every.total_seconds(),
                # In the middle of a slot, so that clocks that differ a little do not make one of two.
                start_date=datetime.fromtimestamp(job.every.total_seconds() / 2, UTC),
                # Now, too: what fell due while nobody led is made up for at once, and a slot that was run is not.
                next_run_time=now,
                id=name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=int(MISFIRE_GRACE.total_seconds()),
            )

    def start(self) -> None:
        """Runs them from now on."""
        self._scheduler.start()  # pyright: ignore[reportUnknownMemberType] - as above

    def follow_wall_clock(self) -> None:
        """Has every job due now when the wall clock was set: APScheduler sleeps until a time that it shows.

        Set back, that is as far away as it was set; a slot that was run is not run again.
        """
        moved = _wall_seconds() - self._wall
        if abs(moved) < STEP.total_seconds():
            return
        log.warning("wall_clock_was_set", seconds=round(moved, 3))
        self._wall += moved
        for name in self._jobs:
            self._scheduler.modify_job(name, next_run_time=SystemClock().now())  # pyright: ignore[reportUnknownMemberType] - as above

    def end(self) -> None:
        """Begins no more, breaks off what is under way and can be, and waits for the rest."""
        shutdown = Thread(target=self._scheduler.shutdown, name="shutdown")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - as above
        shutdown.start()
        while shutdown.is_alive():
            # Again and again: what had not begun when it was first told has begun by then.
            for job in self._jobs.values():
                if job.interrupt is not None:
                    job.interrupt()
            shutdown.join(INTERRUPT_AGAIN.total_seconds())


def _wall_seconds() -> float:
    """What the machine's wall clock shows beyond the steady one."""
    return SystemClock().now().timestamp() - elapsed()


class Leader:
    """Runs the jobs and the followers while this process is the leader, until it is told to stop.

    A follower is a function that runs until the flag it is given is set. Whatever else ends one costs the leadership,
    and with the next it begins anew.
    """

    TRY_LOCK = "SELECT pg_try_advisory_lock(7310308)"
    HEARTBEAT = "SELECT clock_timestamp()"
    # A leader that stands still, or whose machine is gone, is nobody's leader: PostgreSQL ends the session.
    CONFIGURE = """
        SELECT set_config('statement_timeout', '5s', false), set_config('idle_session_timeout', %(silence)s, false),
               set_config('tcp_keepalives_idle', '2', false), set_config('tcp_keepalives_interval', '1', false),
               set_config('tcp_keepalives_count', '3', false)
    """

    def __init__(
        self,
        conninfo: str,
        *,
        jobs: Mapping[str, Job],
        followers: Mapping[str, Callable[[Flag], None]],
        runner: JobRunner,
        tell_time: TellTime,
    ) -> None:
        self._conninfo = conninfo
        self._jobs = jobs
        self._followers = followers
        self._runner = runner
        self._tell_time = tell_time

    def run(self, stop: Flag) -> None:
        """Stands for leadership again and again; returns once ``stop`` is set."""
        while not stop.is_set():
            try:
                self._stand(stop)
            except psycopg.Error as error:
                log.warning("leadership_lost", reason=str(error))
            stop.wait(HEARTBEAT.total_seconds())

    def _stand(self, stop: Flag) -> None:
        with PatientConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=5, application_name="keyledger leader"
        ) as connection:
            # The server gives a heartbeat up before; one that stands still keeps nobody a leader whom it does not hear.
            connection.patience_seconds = SILENCE.total_seconds() + 1
            connection.execute(self.CONFIGURE, {"silence": f"{int(SILENCE.total_seconds())}s"})
            row = connection.execute(self.TRY_LOCK).fetchone()
            if row is None or not row[0]:
                return
            self._beat(connection)
            log.info("leadership_taken")
            self._lead(connection, stop)

    def _lead(self, connection: psycopg.Connection[tuple[object, ...]], stop: Flag) -> None:
        deposed = Flag()
        schedule = _Schedule(self._jobs, self._runner.run_scheduled)
        threads = [Thread(target=follow, args=(deposed,), name=name) for name, follow in self._followers.items()]
        schedule.start()
        for thread in threads:
            thread.start()
        try:
            while not stop.wait(HEARTBEAT.total_seconds()):
                self._beat(connection)
                schedule.follow_wall_clock()
                ended = [thread.name for thread in threads if not thread.is_alive()]
                if ended:  # whoever leads next, this process as likely as not, begins them all anew
                    log.error("leadership_given_up", ended_followers=ended)
                    break
        finally:
            deposed.set()
            schedule.end()
            for thread in threads:
                thread.join()

    def _beat(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        asked_at = elapsed()
        row = connection.execute(self.HEARTBEAT).fetchone()
        if row is not None and isinstance(row[0], datetime):
            self._tell_time(asked_at, row[0])
