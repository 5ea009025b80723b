"""The tailer's words: a view that cannot go on says so once, and once that it goes on."""

from dataclasses import dataclass
from typing import Any

import structlog
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ledger import Ledger
from domain.events import Event
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.pool import Database
from infrastructure.projections import Tailer
from tests.kit.builders import a_key


@dataclass
class PickyView:
    """A view that takes no key, for the reason that it is given; None: it takes all."""

    reason: str | None
    name: str = "picky"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Takes it or not."""
        del cursor, event, position
        if self.reason is not None:
            raise ValueError(self.reason)

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """There is nothing."""


def test_a_view_that_stops_says_so_once_and_once_that_it_goes_on(database: Database) -> None:
    """However often it is tried meanwhile; another reason is said, too, and so is the next time that it stops."""
    recorder = PostgresRecorder(database, [])
    view = PickyView("no keys here")
    tailer = Tailer(database, recorder, [view])

    def said() -> list[Any]:
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                tailer.catch_up()
        return [line["event"] for line in lines]

    with Ledger(PostgresLedgerFactory(recorder)) as ledger:
        ledger.append(a_key())
        assert said() == ["projection_stopped"]
        assert said() == []
        view.reason = "none of these either"
        assert said() == ["projection_stopped"]
        view.reason = None
        assert said() == ["projection_goes_on"]
        ledger.append(a_key())
        assert said() == []
        view.reason = "no keys here"
        ledger.append(a_key())
        assert said() == ["projection_stopped"]
