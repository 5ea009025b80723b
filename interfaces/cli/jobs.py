"""`keyledger jobs`: what is done from time to time, by itself or by hand."""

from argparse import Namespace

import msgspec

from domain.errors import InvalidError
from interfaces.bootstrap import jobs
from interfaces.cli.exits import Exit
from interfaces.cli.render import as_json, table
from interfaces.cli.session import opened
from interfaces.cli.terminal import say, write
from interfaces.settings import Settings


class JobBody(msgspec.Struct):
    """A job, and how often the leader runs it."""

    name: str
    every_seconds: float


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
        bodies = [JobBody(name, job.every.total_seconds()) for name, job in jobs(core).items()]
    rows = [(body.name, f"{body.every_seconds:g} s") for body in bodies]
    write(as_json(JobsBody(bodies)) if arguments.json else table(("name", "every"), rows))
    return Exit.OK


def run(arguments: Namespace, settings: Settings) -> int:
    """Runs one job to its end; the number of things that it did. InvalidError for a name that no job has."""
    with opened(settings) as core:
        known = jobs(core)
        if arguments.name not in known:
            raise InvalidError.of("name", f"must be one of: {', '.join(known)}")
        done = known[arguments.name].run()
    write(as_json(JobRunBody(arguments.name, done)) if arguments.json else f"{done}\n")
    say(f"job {arguments.name} has run")
    return Exit.OK
