"""The ledger, read for people: one stream's events with position, type, actor and data."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from application.ports import HistoryEntry
from infrastructure.postgres.pool import Database

# What every event carries is shown beside the data; what only the service itself needs is not shown.
_APART = ("timestamp", "actor", "account_id", "originator_topic", "verifier_digest")


class PostgresHistory:
    """The port `History`."""

    STREAM = """
        SELECT position, version, topic, state FROM ledger.events
        WHERE stream_id = %(stream)s AND position > %(after)s ORDER BY version LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_stream(self, stream_id: str, *, after: int, limit: int) -> Sequence[HistoryEntry]:
        """One aggregate's events past that position, in ledger order."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.STREAM, {"stream": stream_id, "after": after, "limit": limit}).fetchall()
        return [_entry(*row) for row in rows]


def _entry(position: int, version: int, topic: str, state: bytes) -> HistoryEntry:
    fields: dict[str, Any] = msgspec.json.decode(bytes(state))
    return HistoryEntry(
        position=position,
        version=version,
        type=topic,
        occurred_at=datetime.fromisoformat(fields["timestamp"]),
        actor=fields["actor"],
        data={name: value for name, value in fields.items() if name not in _APART},
    )
