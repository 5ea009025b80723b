"""The failed-attempt limit, held across all processes in one row for each client network."""

from datetime import datetime

from domain.attempt_limit import AttemptLimit, Decision, decide
from infrastructure.postgres.pool import Database


class PostgresAttempts:
    """The port `Attempts`."""

    # The row's lock puts the attempts of one network in order, whichever process they come through.
    FIRST = (
        "INSERT INTO serving.attempts (network, replenished_at) VALUES (%(network)s, %(now)s) ON CONFLICT DO NOTHING"
    )
    LOCK = "SELECT replenished_at FROM serving.attempts WHERE network = %(network)s FOR UPDATE"
    KEEP = "UPDATE serving.attempts SET replenished_at = %(state)s WHERE network = %(network)s"
    FORGET = "DELETE FROM serving.attempts WHERE replenished_at < %(now)s"

    def __init__(self, database: Database, limit: AttemptLimit) -> None:
        self._database = database
        self._limit = limit

    def count(self, network: str, now: datetime) -> Decision:
        """Counts one failed attempt of that network, exactly, with all those that other processes count."""
        with self._database.transaction() as cursor:
            cursor.execute(self.FIRST, {"network": network, "now": now})
            row = cursor.execute(self.LOCK, {"network": network}).fetchone()
            decision = decide(self._limit, None if row is None else row[0], now)
            if decision.allowed:
                cursor.execute(self.KEEP, {"network": network, "state": decision.state})
        return decision

    def forget(self, now: datetime) -> int:
        """Drops the networks whose whole limit is there again; answers how many."""
        with self._database.cursor() as cursor:
            return cursor.execute(self.FORGET, {"now": now}).rowcount
