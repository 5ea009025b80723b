"""`keyledger jobs`: what is done from time to time, by itself or by hand, and how it went."""

from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec

from application.ports import JobRun
from domain.errors import InvalidError
from interfaces.bootstrap import jobs, last_runs, run_job
from interfaces.cli.exits import Exit
from interfaces.cli.render import as_json, table
from interfaces.cli.session import opened
from interfaces.cli.terminal import say, write
from interfaces.settings import Settings

EPOCH = datetime.fromtimestamp(0, UTC)
"""Where the slots of all jobs begin."""


class LastRunBody(msgspec.Struct):
    """The last run of a job. ``outcome``: done, postponed, failed, interrupted; null while it runs."""

    started_at: datetime
    by_hand: bool
    outcome: str | None
    seconds: float | None
    done: int | None
    error: str | None


class JobBody(msgspec.Struct):
    """A job, how often the leader runs it, and how it went. ``next_at`` null: it has never been run."""

    name: str
    every_seconds: float
    last_run: LastRunBody | None
    next_at: datetime | None

    @classmethod
    def of(cls, name: str, every: timedelta, run: JobRun | None, *, now: datetime) -> Self:
        """The body of a job."""
        if run is None:
            return cls(name, every.total_seconds(), None, None)
        seconds = None if run.ended_at is None else (run.ended_at - run.started_at).total_seconds()
        last = LastRunBody(run.started_at, run.by_hand, run.outcome, seconds, run.done, run.error)
        # Each slot is run in its middle; a run by hand has a slot of its own, which says nothing about the leader's.
        next_at = now + every - (now - EPOCH - every / 2) % every if run.by_hand else run.slot + 1.5 * every
        return cls(name, every.total_seconds(), last, next_at)


class JobsBody(msgspec.Struct):
    """All jobs."""

    data: list[JobBody]


class JobRunBody(msgspec.Struct):
    """A run of a job: the number of things that it did."""

    name: str
    done: int


def list_all(arguments: Namespace, settings: Settings) -> int:
    """The jobs, one a line."""
    with opened(settings) as core:
        last, now = last_runs(core), core.clock.now()
        bodies = [JobBody.of(name, job.every, last.get(name), now=now) for name, job in jobs(core).items()]
    write(as_json(JobsBody(bodies)) if arguments.json else table(COLUMNS, [_row(body) for body in bodies]))
    return Exit.OK


COLUMNS = ("name", "every", "last run", "outcome", "seconds", "done", "next", "error")


def _row(body: JobBody) -> tuple[object, ...]:
    every = f"{body.every_seconds:g} s"
    run = body.last_run
    if run is None:
        return (body.name, every, None, "never run", None, None, None, None)
    seconds = None if run.seconds is None else f"{run.seconds:.3f}"
    return (body.name, every, run.started_at, run.outcome or "running", seconds, run.done, body.next_at, run.error)


def run(arguments: Namespace, settings: Settings) -> int:
    """Runs one job to its end; the number of things that it did. InvalidError for a name that no job has."""
    with opened(settings) as core:
        known = jobs(core)
        if arguments.name not in known:
            raise InvalidError.of("NAME", f"must be one of: {', '.join(known)}")
        done = run_job(core, arguments.name)
    write(as_json(JobRunBody(arguments.name, done)) if arguments.json else f"{done}\n")
    say(f"job {arguments.name} has run")
    return Exit.OK
