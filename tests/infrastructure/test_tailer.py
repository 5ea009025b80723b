"""The tailer's words: a view that cannot go on says so once, and once that it goes on; and what it lives through."""

from contextlib import suppress
from dataclasses import dataclass
from threading import Event as Flag
from threading import Thread
from typing import Any

import psycopg
import structlog
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ledger import Ledger
from domain.errors import UnavailableError
from domain.events import Event
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.pool import Database
from infrastructure.projections import Tailer
from tests.kit.builders import a_key
from tests.kit.databases import read_only
from tests.kit.service import eventually


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


@dataclass
class CountingView(PickyView):
    """A view that takes all, and counts what it has taken."""

    taken: int = 0

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Takes it."""
        del cursor, event, position
        self.taken += 1


def test_a_tailer_lives_through_a_database_that_takes_no_writes(database: Database) -> None:
    """It waits, stops no view for it, and goes on with the first event afterwards."""
    recorder, view, stop = PostgresRecorder(database, []), CountingView(None), Flag()
    tailer = Thread(target=Tailer(database, recorder, [view]).run, args=(stop,))
    with Ledger(PostgresLedgerFactory(recorder)) as ledger, structlog.testing.capture_logs() as lines:
        tailer.start()
        try:
            ledger.append(a_key())
            eventually(lambda: view.taken == 1, "it follows")
            with read_only(database.conninfo):
                eventually(
                    lambda: not tailer.is_alive() or any("read-only" in line.get("reason", "") for line in lines),
                    "it has tried to write",
                )
            assert tailer.is_alive()
            eventually(lambda: written(ledger), "the database takes writes again")
            eventually(lambda: view.taken == 2, "it follows again")
        finally:
            stop.set()
            tailer.join()
    assert "projection_stopped" not in [line["event"] for line in lines]


def written(ledger: Ledger) -> bool:
    """Whether a key could be put into the ledger; not by a session that was ended, or is read-only still."""
    with suppress(UnavailableError, psycopg.errors.ReadOnlySqlTransaction):
        ledger.append(a_key())
        return True
    return False


def test_a_view_whose_stop_cannot_be_put_on_record_holds_up_no_other(database: Database) -> None:
    """The reason has a character that PostgreSQL's texts do not: it is in the log alone, and the next view goes on."""
    recorder, other = PostgresRecorder(database, []), CountingView(None, "other")
    tailer = Tailer(database, recorder, [PickyView("no \0 here"), other])
    with Ledger(PostgresLedgerFactory(recorder)) as ledger, structlog.testing.capture_logs() as lines:
        ledger.append(a_key())
        tailer.catch_up()
    assert other.taken == 1
    assert [line["event"] for line in lines] == ["projection_stopped", "projection_stop_not_on_record"]
