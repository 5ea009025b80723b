"""What a change of a key is answered with: the key, its counts, and who has applied it, in one question."""

from typing import Any

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ports import Freshness, KeyView
from application.usage_ports import KeyUsage
from domain.ids import KeyId
from infrastructure.postgres.freshness import LOOKS_MAX, PostgresFreshness
from infrastructure.postgres.keys import key_view
from infrastructure.postgres.pool import Database


class PostgresKeyAnswers:
    """The port `KeyAnswers`."""

    def __init__(self, database: Database, freshness: PostgresFreshness) -> None:
        self._database = database
        self._freshness = freshness

    def of(self, key_id: KeyId) -> "PostgresKeyAnswer":
        """The answer of a change that is about to be made."""
        return PostgresKeyAnswer(key_id, self._database, self._freshness)


class PostgresKeyAnswer:
    """The port `KeyAnswer`, which the recorder asks behind its commit."""

    # One statement: its snapshot, taken after the commit, holds the change; the function's looks have their own.
    # The key is read first, while the processes hear of the change.
    ASK = """
        WITH found AS MATERIALIZED (
            SELECT k.key_id, k.account_id, k.name, k.environment, k.prefix, k.scopes, k.allowed_ips, k.created_at,
                   k.expires_at, k.rotation_due_at, k.disabled, k.revoked_at, k.retires_at, k.lineage_id, k.replaces,
                   k.replaced_by, k.created_position, k.position,
                   coalesce(c.requests, 0) AS requests, coalesce(c.failed_attempts, 0) AS failed_attempts,
                   c.first_used_at, c.last_used_at
            FROM views.keys AS k LEFT JOIN usage.counts_of(ARRAY[%(key_id)s]) AS c ON c.key_id = k.key_id
            WHERE k.key_id = %(key_id)s
        )
        SELECT f.key_id, f.account_id, f.name, f.environment, f.prefix, f.scopes, f.allowed_ips, f.created_at,
               f.expires_at, f.rotation_due_at, f.disabled, f.revoked_at, f.retires_at, f.lineage_id, f.replaces,
               f.replaced_by, f.created_position, f.position,
               f.requests, f.failed_attempts, f.first_used_at, f.last_used_at,
               a.process_ids, a.applied, a.beats, a.lease_seconds, a.servers, a.waited_seconds
        FROM found AS f CROSS JOIN LATERAL serving.await_applied(f.position, %(looks_max)s, %(told)s) AS a
    """

    def __init__(self, key_id: KeyId, database: Database, freshness: PostgresFreshness) -> None:
        self._values: dict[str, Any] = {"key_id": key_id, "looks_max": LOOKS_MAX, "told": freshness.told}
        self._database = database
        self._freshness = freshness
        self._row: TupleRow | None = None

    def ask(self, cursor: Cursor[TupleRow]) -> None:
        """Sends the question; behind a commit that is not answered yet, too."""
        cursor.execute(self.ASK, self._values)

    def keep(self, cursor: Cursor[TupleRow]) -> None:
        """Takes what came back of the question."""
        self._row = cursor.fetchone()

    def read(self) -> tuple[KeyView, KeyUsage, Freshness] | None:
        """The answer; asked for now when nothing was recorded."""
        if self._row is None:
            with self._database.cursor() as cursor:
                self.ask(cursor)
                self.keep(cursor)
        if self._row is None:
            return None
        view, usage = key_view(self._row[:18]), KeyUsage(*self._row[18:22])
        return view, usage, self._freshness.conclude(view.position, self._row[22:])
