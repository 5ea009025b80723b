"""`keyledger migrate` and `keyledger projections rebuild`."""

from argparse import Namespace

import msgspec

from interfaces.cli.exits import Exit
from interfaces.cli.render import as_json
from interfaces.cli.session import database, operator
from interfaces.cli.terminal import say, write
from interfaces.settings import Settings


class MigratedBody(msgspec.Struct):
    """The migrations that were applied, in order."""

    applied: list[str]


class RebuiltBody(msgspec.Struct):
    """How many events of the ledger the views were made of."""

    events: int


def migrate(arguments: Namespace, settings: Settings) -> int:
    """Brings the schema to this release; the names applied, one a line."""
    with database(settings) as (_, applied):
        write(as_json(MigratedBody(applied)) if arguments.json else "".join(f"{name}\n" for name in applied))
        say(f"{len(applied)} migrations applied" if applied else "the schema is up to date")
    return Exit.OK


def rebuild(arguments: Namespace, settings: Settings) -> int:
    """Makes every view anew; the number of events replayed."""
    with operator(settings) as op:
        events = op.manage.rebuilder.rebuild()
        write(as_json(RebuiltBody(events)) if arguments.json else f"{events}\n")
        say(f"views rebuilt from {events} events")
    return Exit.OK
