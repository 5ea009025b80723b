"""The clock of the jobs: one leader per database runs them, on APScheduler.

Leadership is a session's advisory lock on a connection of its own: it ends with the connection, so a dead leader is
replaced as soon as PostgreSQL notices, and a leader that loses its connection stops its jobs. Jobs are level-triggered,
so a moment without a leader, or with two, costs nothing but time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from threading import Event as Flag
from threading import Thread
from time import perf_counter

import psycopg
import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from domain.errors import UnavailableError

HEARTBEAT = timedelta(seconds=1)
MISFIRE_GRACE = timedelta(hours=6)

CountRun = Callable[[str, str, float], None]
"""Told of each run: the job, ``done``, ``postponed`` or ``failed``, and its seconds."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """A job: how often it runs, and what it does; the answer is the number of things it did."""

    every: timedelta
    run: Callable[[], int]


class Leader:
    """Runs the jobs and the followers while this process is the leader, until it is told to stop.

    A follower is a function that runs until the flag it is given is set.
    """

    TRY_LOCK = "SELECT pg_try_advisory_lock(7310308)"
    HEARTBEAT = "SELECT 1"

    def __init__(
        self,
        conninfo: str,
        *,
        jobs: Mapping[str, Job],
        followers: Mapping[str, Callable[[Flag], None]],
        count: CountRun,
    ) -> None:
        self._conninfo = conninfo
        self._jobs = jobs
        self._followers = followers
        self._count = count

    def run(self, stop: Flag) -> None:
        """Stands for leadership again and again; returns once ``stop`` is set."""
        while not stop.is_set():
            try:
                self._stand(stop)
            except psycopg.Error as error:
                log.warning("leadership_lost", reason=str(error))
            stop.wait(HEARTBEAT.total_seconds())

    def _stand(self, stop: Flag) -> None:
        with psycopg.connect(
            self._conninfo, autocommit=True, connect_timeout=5, application_name="keyledger leader"
        ) as connection:
            connection.execute("SET statement_timeout = '5s'")
            row = connection.execute(self.TRY_LOCK).fetchone()
            if row is None or not row[0]:
                return
            log.info("leadership_taken")
            self._lead(connection, stop)

    def _lead(self, connection: psycopg.Connection[tuple[object, ...]], stop: Flag) -> None:
        deposed = Flag()
        scheduler = BackgroundScheduler(timezone="UTC")
        for name, job in self._jobs.items():
            scheduler.add_job(  # pyright: ignore[reportUnknownMemberType] - apscheduler 3 has no types
                _guarded(name, job.run, self._count),
                "interval",
                seconds=job.every.total_seconds(),
                id=name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=int(MISFIRE_GRACE.total_seconds()),
            )
        threads = [Thread(target=follow, args=(deposed,), name=name) for name, follow in self._followers.items()]
        scheduler.start()  # pyright: ignore[reportUnknownMemberType] - as above
        for thread in threads:
            thread.start()
        try:
            while not stop.wait(HEARTBEAT.total_seconds()):
                connection.execute(self.HEARTBEAT)
        finally:
            deposed.set()
            scheduler.shutdown(wait=True)  # pyright: ignore[reportUnknownMemberType] - as above
            for thread in threads:
                thread.join()


def _guarded(name: str, run: Callable[[], int], count: CountRun) -> Callable[[], None]:
    def guarded() -> None:
        began, result = perf_counter(), "done"
        try:
            done = run()
        except UnavailableError as error:
            result = "postponed"
            log.warning("job_postponed", job=name, reason=error.message)
        except Exception:
            result = "failed"
            log.exception("job_failed", job=name)
        else:
            if done:
                log.info("job_done", job=name, done=done)
        count(name, result, perf_counter() - began)

    return guarded
