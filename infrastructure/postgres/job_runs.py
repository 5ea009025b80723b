"""The runs of the jobs on PostgreSQL: each slot claimed once, how each run ended, and for how long that is kept."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from application.ports import JobRun
from infrastructure.postgres.pool import Database

QUIET_KEPT = timedelta(minutes=10)
KEPT = timedelta(days=30)
INTERRUPTED_AFTER = timedelta(hours=1)


class PostgresJobRuns:
    """The history of runs, by the database's clock. Set back, that has a slot run that was run before, of another time.

    A run that did nothing is kept for ten minutes, any other for thirty days. Losing the newest rows in a crash of
    PostgreSQL costs history alone, so no run waits for the disk.
    """

    # Slots later than now were claimed by a clock since set back: left there, they would refuse theirs once more.
    # clock_timestamp() in a query of its own is asked once, and is a bound of the primary key's scan.
    BEGIN = """
        WITH later AS (DELETE FROM jobs.runs WHERE job = %(job)s AND slot > (SELECT clock_timestamp()))
        INSERT INTO jobs.runs (job, slot, by_hand, host, started_at)
        SELECT %(job)s,
               CASE WHEN %(by_hand)s THEN t.now
                    ELSE to_timestamp(floor(extract(epoch FROM t.now) / %(every)s) * %(every)s) END,
               %(by_hand)s, %(host)s, t.now
        FROM (SELECT clock_timestamp()) AS t (now)
        ON CONFLICT (job, slot) DO NOTHING
        RETURNING slot, set_config('synchronous_commit', 'off', true)
    """
    END = """
        UPDATE jobs.runs SET ended_at = clock_timestamp(), outcome = %(outcome)s, done = %(done)s, error = %(error)s
        WHERE job = %(job)s AND slot = %(slot)s
        RETURNING set_config('synchronous_commit', 'off', true)
    """
    # One step down the primary key for each job.
    LATEST = """
        SELECT r.job, r.slot, r.by_hand, r.started_at, r.ended_at, r.outcome, r.done, r.error
        FROM unnest(%(jobs)s::text[]) AS j (job)
        CROSS JOIN LATERAL (SELECT * FROM jobs.runs WHERE runs.job = j.job ORDER BY slot DESC LIMIT 1) AS r
    """
    LAST_DONE = """
        SELECT started_at FROM jobs.runs WHERE job = %(job)s AND outcome = 'done' ORDER BY slot DESC LIMIT 1
    """
    PRUNE = """
        DELETE FROM jobs.runs
        WHERE started_at < clock_timestamp() - %(kept)s
           OR (started_at < clock_timestamp() - %(quiet)s AND outcome = 'done' AND done = 0)
    """
    INTERRUPT = """
        UPDATE jobs.runs SET outcome = 'interrupted', ended_at = clock_timestamp()
        WHERE outcome IS NULL AND started_at < clock_timestamp() - %(after)s
    """

    def __init__(self, database: Database, *, host: str) -> None:
        self._database = database
        self._host = host

    def begin(self, job: str, *, every: timedelta, by_hand: bool) -> datetime | None:
        """Claims the slot of this moment; None when it has been run, or is being run. By hand it always is another."""
        parameters = {"job": job, "every": every.total_seconds(), "by_hand": by_hand, "host": self._host}
        with self._database.cursor() as cursor:
            row = cursor.execute(self.BEGIN, parameters).fetchone()
        return None if row is None else row[0]

    def end(self, job: str, slot: datetime, *, outcome: str, done: int | None, error: str | None) -> None:
        """Puts on record how the run of that slot ended."""
        parameters = {"job": job, "slot": slot, "outcome": outcome, "done": done, "error": error}
        with self._database.cursor() as cursor:
            cursor.execute(self.END, parameters)

    def latest(self, jobs: Sequence[str]) -> dict[str, JobRun]:
        """The last run of each job that has one."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.LATEST, {"jobs": list(jobs)}).fetchall()
        return {row[0]: JobRun(*row) for row in rows}

    def last_done(self, job: str) -> datetime | None:
        """When the job's last run that ended well began; None when none is on record (any more)."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.LAST_DONE, {"job": job}).fetchone()
        return None if row is None else row[0]

    def prune(self) -> int:
        """Drops what is old, and says of runs that never ended that they were interrupted; how many of these."""
        with self._database.cursor() as cursor:
            interrupted = cursor.execute(self.INTERRUPT, {"after": INTERRUPTED_AFTER}).rowcount
            cursor.execute(self.PRUNE, {"kept": KEPT, "quiet": QUIET_KEPT})
        return interrupted
