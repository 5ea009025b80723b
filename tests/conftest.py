"""What every test may ask for: a PostgreSQL of its own session, and in it a fresh, migrated database."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from infrastructure.embedded_postgres import EmbeddedPostgres
from infrastructure.postgres.migrate import migrate
from infrastructure.postgres.pool import Database

_numbers = count(1)


def _nobody(line: str) -> None:
    del line


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The conninfo of a running server, with a migrated database to copy from.

    Not below pytest's own directory: a second run of pytest closes that to others, the server's user among them.
    """
    with TemporaryDirectory(prefix="keyledger-tests-") as data, EmbeddedPostgres(Path(data), say=_nobody) as server:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute("CREATE DATABASE migrated")
        migrate(make_conninfo(server.conninfo, dbname="migrated"))
        yield server.conninfo


@pytest.fixture
def conninfo(postgres: str) -> Iterator[str]:
    """The conninfo of a migrated database that no other test sees."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE migrated").format(sql.Identifier(name)))
        yield make_conninfo(postgres, dbname=name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(conninfo: str) -> Iterator[Database]:
    """A pool on that database."""
    with Database(conninfo, size_max=8) as opened:
        yield opened


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the project."""
    return Path(__file__).parent.parent
