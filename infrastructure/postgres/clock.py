"""The database's time, asked once: for who has neither a lease nor the lead, which ask it all along."""

from collections.abc import Callable
from datetime import datetime

from infrastructure.postgres.freshness import elapsed
from infrastructure.postgres.pool import Database

NOW = "SELECT clock_timestamp()"


def ask_time(database: Database, tell: Callable[[float, datetime], None]) -> None:
    """Tells what the database's clock said, and when it was asked, in seconds of ``elapsed``; UnavailableError."""
    with database.cursor() as cursor:
        asked_at = elapsed()  # not before: the wait for a connection is no part of the answer's way
        row = cursor.execute(NOW).fetchone()
    if row is not None:
        tell(asked_at, row[0])
