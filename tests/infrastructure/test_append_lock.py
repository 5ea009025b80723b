"""A writer that falls silent while it holds the ledger keeps nobody waiting for long."""

from threading import Thread

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ledger import Ledger
from domain.errors import UnavailableError
from domain.events import Event
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder, View
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.pool import Database
from tests.kit.builders import an_account
from tests.kit.proxy import Line


class Silencing:
    """A view whose first event finds the line silent when its statement has reached the server."""

    name = "silencing"

    def __init__(self, line: Line, database: Database) -> None:
        self._line = line
        self._database = database

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Sends a statement, and learns from the server that it is there."""
        del event, position
        cursor.execute("SELECT 'silencing'")
        cursor.connection.pgconn.flush()
        with self._database.cursor() as other:
            # Before PostgreSQL 17 an append is no pipeline, and the statement's session rests again at once.
            seen = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT ''silencing'''"
            while other.execute(seen).fetchone() == (0,):
                pass
        self._line.fall_silent()

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """There is nothing."""


def ledger(database: Database, *views: View) -> Ledger:
    return Ledger(PostgresLedgerFactory(PostgresRecorder(database, [AccountsView(), *views])))


def test_the_ledger_is_free_again_soon(conninfo: str, database: Database) -> None:
    """Silent in the middle of its append, for which no other limit of PostgreSQL holds, since it is a pipeline."""
    with Line(conninfo) as line, Database(line.conninfo, size_max=1) as silent:
        errors: list[UnavailableError] = []

        def fall_silent() -> None:
            try:
                ledger(silent, Silencing(line, database)).append(an_account(number=1))
            except UnavailableError as error:
                errors.append(error)

        writer = Thread(target=fall_silent)
        writer.start()
        while not line.is_silent:
            assert writer.is_alive()
        assert ledger(database).append(an_account(number=2)) == 1
        line.speak_again()
        writer.join()
        assert len(errors) == 1
