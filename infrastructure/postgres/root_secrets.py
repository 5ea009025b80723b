"""Which root secrets a database has seen: their fingerprints, which are made from them and give nothing back."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import Cursor
from psycopg.rows import TupleRow

from domain.errors import UnavailableError
from infrastructure.postgres.pool import Database


class PostgresRootSecrets:
    """The first ones are kept as they come; later ones only beside one that is known."""

    SEEN = "SELECT fingerprint FROM credentials.root_secrets"
    KEEP = """
        INSERT INTO credentials.root_secrets (fingerprint)
        SELECT unnest(%(fingerprints)s::text[]) ON CONFLICT DO NOTHING
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def are_known(self) -> bool:
        """Whether any has been seen; UnavailableError without the database, or before it is migrated."""
        with self._cursor() as cursor:
            return cursor.execute(self.SEEN).fetchone() is not None

    def accept(self, fingerprints: Sequence[str]) -> bool:
        """Keeps those of one process, and answers True; False when others are known and none of these.

        UnavailableError without the database, or before it is migrated.
        """
        with self._cursor() as cursor:
            seen = {row[0] for row in cursor.execute(self.SEEN)}
            if seen and seen.isdisjoint(fingerprints):
                return False
            if not seen.issuperset(fingerprints):
                cursor.execute(self.KEEP, {"fingerprints": list(fingerprints)})
        return True

    @contextmanager
    def _cursor(self) -> Generator[Cursor[TupleRow]]:
        try:
            with self._database.cursor() as cursor:
                yield cursor
        except psycopg.errors.UndefinedTable as error:
            raise UnavailableError("The database is not migrated yet") from error
