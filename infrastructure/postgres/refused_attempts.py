"""Refused attempts in the access log, by the key that they named."""

from collections.abc import Sequence
from datetime import datetime

from domain.ids import KeyId
from infrastructure.postgres.pool import Database


class PostgresRefusedAttempts:
    """The port `RefusedAttempts`; reads the index ``access_log_refused`` alone, for the time asked.

    Keys of which it is on record are passed over, or the first ``limit`` would hide all others for ever.
    """

    # Who lacks a scope or a feature has shown a good key: a client that is set up wrongly, and no attack. What is on
    # record is counted, for each key by the index ``events_stream_version``: asked whether there is any, the planner
    # may read the whole ledger.
    ATTACKED = """
        SELECT r.key_id, r.attempts FROM (
            SELECT key_id, count(*) AS attempts FROM usage.access_log
            WHERE NOT accepted AND key_id IS NOT NULL AND occurred_at > %(since)s
              AND outcome NOT IN ('insufficient_scope', 'plan_lacks_feature')
            GROUP BY key_id HAVING count(*) >= %(threshold)s
        ) AS r
        JOIN views.keys AS k ON k.key_id = r.key_id
        WHERE (
            SELECT count(*) FROM ledger.events AS e WHERE e.stream_id = r.key_id AND e.topic = 'key.attacked'
               AND (convert_from(e.state, 'UTF8')::json ->> 'timestamp')::timestamptz > %(since)s - interval '1 day'
        ) = 0
        ORDER BY r.attempts DESC LIMIT %(limit)s
    """
    PRESENTED_AFTER_END = """
        SELECT r.key_id, r.attempts, r.last_at FROM (
            SELECT key_id, count(*) AS attempts, max(occurred_at) AS last_at FROM usage.access_log
            WHERE NOT accepted AND key_id IS NOT NULL AND occurred_at > %(since)s
              AND outcome IN ('revoked', 'expired')
            GROUP BY key_id
        ) AS r
        JOIN views.keys AS k ON k.key_id = r.key_id
        WHERE (
            SELECT count(*) FROM ledger.events AS e WHERE e.stream_id = r.key_id AND e.topic = 'key.presented_after_end'
               AND (convert_from(e.state, 'UTF8')::json ->> 'timestamp')::timestamptz > r.last_at - interval '1 day'
        ) = 0
        ORDER BY r.last_at LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def attacked(self, since: datetime, threshold: int, limit: int) -> Sequence[tuple[KeyId, int]]:
        """Existing keys with that many refused attempts or more since then, the most attacked first.

        Not those on record as attacked since a day before. Neither a missing scope nor a missing feature of the plan
        counts.
        """
        values = {"since": since, "threshold": threshold, "limit": limit}
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.ATTACKED, values).fetchall()
        return [(KeyId(key_id), attempts) for key_id, attempts in rows]

    def presented_after_end(self, since: datetime, limit: int) -> Sequence[tuple[KeyId, int, datetime]]:
        """Keys refused as revoked or expired since then, with how often and when last.

        Not those on record as presented in the day before that.
        """
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.PRESENTED_AFTER_END, {"since": since, "limit": limit}).fetchall()
        return [(KeyId(key_id), attempts, last_at) for key_id, attempts, last_at in rows]
