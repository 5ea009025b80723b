"""The failed attempts of client networks on PostgreSQL: counted, and forgotten when they matter no more."""

from datetime import timedelta

from domain.attempt_limit import AttemptLimit
from infrastructure.postgres.attempts import PostgresAttempts
from infrastructure.postgres.pool import Database
from tests.kit.builders import NOON


def test_only_a_network_whose_whole_limit_is_there_again_is_forgotten(database: Database) -> None:
    """The one that was refused a moment ago is refused after it, too."""
    attempts = PostgresAttempts(database, AttemptLimit(attempts=1))
    attempts.count("192.0.2.0/24", NOON - timedelta(days=1))
    attempts.count("198.51.100.0/24", NOON)
    assert not attempts.count("198.51.100.0/24", NOON).allowed
    assert attempts.forget(NOON) == 1
    assert not attempts.count("198.51.100.0/24", NOON).allowed
    assert attempts.forget(NOON) == 0
