"""What the background process leads: the jobs, the tailer and the outbox."""

import os
import platform
from contextlib import ExitStack
from datetime import timedelta
from threading import Event as Flag

from application.deadlines import Deadlines
from application.ports import JobRun
from application.retention import Retention
from application.suspicions import Suspicions
from application.usage import Settlement
from domain.ids import RunId
from infrastructure.metrics import Metrics
from infrastructure.postgres.access_log_partitions import AccessLogPartitions
from infrastructure.postgres.job_runs import PostgresJobRuns
from infrastructure.postgres.metrics import MetricsTeller
from infrastructure.postgres.outbox import PostgresOutbox
from infrastructure.postgres.refused_attempts import PostgresRefusedAttempts
from infrastructure.postgres.usage import PostgresSettlementRows
from infrastructure.projections import Tailer
from infrastructure.scheduler import Job, JobRunner, Leader
from infrastructure.system import spare_long_lived_objects
from interfaces.bootstrap.core import Core, attempts, following_views, open_core
from interfaces.bootstrap.database import open_database
from interfaces.bootstrap.outbox import outbox_followers
from interfaces.bootstrap.workflow import successors, workflow_engine, workflow_follower
from interfaces.settings import Settings

SWEEP_EVERY = timedelta(seconds=2)
FORGET_EVERY = timedelta(minutes=1)
PARTITIONS_EVERY = timedelta(hours=1)
RETENTION_EVERY = timedelta(hours=1)
OUTBOX_RETENTION_EVERY = timedelta(hours=1)


def jobs(core: Core, stop: Flag | None = None) -> dict[str, Job]:
    """Everything that is done from time to time, by name; each may be run by hand, too, wherever the leader is.

    ``stop``: what is long ends early, to be taken up by its next run.
    """
    settings, clock = core.settings, core.clock
    deadlines = Deadlines(ledger=core.ledger, due=core.keys, clock=clock, entropy=core.entropy)
    settlement = Settlement(
        ledger=core.ledger,
        rows=PostgresSettlementRows(core.database),
        entropy=core.entropy,
        window=settings.settlement_window,
    )
    partitions = AccessLogPartitions(core.database, rest=None if stop is None else stop.wait)
    retention = Retention(
        ledger=core.ledger, log=partitions, clock=clock, entropy=core.entropy, days=settings.access_log_days
    )
    runs = job_runs(core)
    suspicions = Suspicions(
        ledger=core.ledger,
        refused=PostgresRefusedAttempts(core.database),
        clock=clock,
        entropy=core.entropy,
        attack_threshold=settings.attack_threshold,
        swept_at=lambda: runs.last_done("presentations"),
    )
    outbox = PostgresOutbox(core.database)
    engine = workflow_engine(core)
    handovers = successors(core)
    return {
        "settlement": Job(settings.settlement_window, lambda: settlement.settle(clock.now())),
        "retirement": Job(SWEEP_EVERY, deadlines.retire),
        "expiry": Job(SWEEP_EVERY, deadlines.expire),
        "expiring": Job(SWEEP_EVERY, deadlines.announce_expiry),
        "rotation": Job(SWEEP_EVERY, deadlines.flag_rotation),
        "grace": Job(SWEEP_EVERY, deadlines.begin_grace),
        "workflow": Job(SWEEP_EVERY, engine.run),
        "successors": Job(SWEEP_EVERY, handovers.hand_over_due, handovers.interrupt),
        "attacks": Job(SWEEP_EVERY, suspicions.note_attacks),
        "presentations": Job(SWEEP_EVERY, suspicions.note_presented_after_end),
        "attempts": Job(FORGET_EVERY, lambda: attempts(core).forget(clock.now())),
        "runs": Job(FORGET_EVERY, runs.prune),
        "partitions": Job(PARTITIONS_EVERY, lambda: partitions.ensure_partitions(days_ahead=7)),
        "retention": Job(RETENTION_EVERY, retention.purge),
        "outbox": Job(OUTBOX_RETENTION_EVERY, lambda: outbox.prune(clock.now() - timedelta(days=settings.outbox_days))),
    }


def job_runs(core: Core) -> PostgresJobRuns:
    """The history of the jobs."""
    return PostgresJobRuns(core.database, host=f"{platform.node()}:{os.getpid()}")


def last_runs(core: Core) -> dict[str, JobRun]:
    """The last run of each job that has one."""
    return job_runs(core).latest(list(jobs(core)))


def run_job(core: Core, name: str) -> int:
    """Runs a job by hand, on record like any run; the number of things that it did. KeyError when there is none."""
    metrics = Metrics()
    return JobRunner(job_runs(core), count=metrics.count_job).run_by_hand(name, jobs(core)[name])


def run_background(settings: Settings, stop: Flag) -> None:
    """The background process: stands for leader, and leads the jobs and the followers, until ``stop`` is set."""
    with ExitStack() as stack:
        conninfo, _ = open_database(settings, stack)
        core = open_core(settings, conninfo, stack)
        metrics = Metrics()
        stack.enter_context(MetricsTeller(conninfo, metrics, process_id=core.entropy.new(RunId)))
        followers = {"tailer": Tailer(core.database, core.recorder, following_views()).run}
        followers |= outbox_followers(core, metrics.count_delivery)
        followers |= workflow_follower(core)
        spare_long_lived_objects()  # settling makes some objects for each row
        leader = Leader(
            conninfo,
            jobs=jobs(core, stop),
            followers=followers,
            runner=JobRunner(job_runs(core), count=metrics.count_job),
            tell_time=core.clock.set,
        )
        leader.run(stop)
