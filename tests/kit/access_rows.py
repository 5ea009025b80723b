"""Rows of the access log with a past, put where a writer would have put them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import count

import psycopg

_runs = count(1)


@dataclass(frozen=True, slots=True)
class PastRow:
    """One request; ``account_id`` None: the key's id was only named."""

    at: datetime
    key_id: str | None
    account_id: str | None
    status: int = 200
    endpoint: str = "/api/campaigns"
    accepted: bool = True


ROWS = """
    INSERT INTO usage.access_log (
        run_id, seq, salt, occurred_at, method, endpoint, status, outcome, accepted, key_id, account_id, key_hash,
        client_ip, request_id
    )
    SELECT %(run)s, seq, '', occurred_at, 'GET', endpoint, status, 'ok', accepted, key_id, account_id, 'f00',
           '203.0.113.9', request_id
    FROM unnest(%(instants)s::timestamptz[], %(endpoints)s::text[], %(statuses)s::smallint[], %(accepts)s::boolean[],
                %(keys)s::text[], %(accounts)s::text[], %(ids)s::text[]) WITH ORDINALITY
        AS r (occurred_at, endpoint, status, accepted, key_id, account_id, request_id, seq)
"""
COUNT = "SELECT usage.count_later(%(run)s, 0, %(count)s, 0, %(first)s, %(last)s)"
UNPROVEN = """
    INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
    SELECT k.account_id, l.occurred_at, l.run_id, l.seq
    FROM usage.access_log AS l JOIN views.keys AS k ON k.key_id = l.key_id
    WHERE l.run_id = %(run)s AND l.account_id IS NULL
"""
# Nothing of the past is left to settle.
SETTLED = "DELETE FROM usage.live WHERE run_id = %(run)s"


def put_rows(conninfo: str, rows: Iterable[PastRow]) -> list[str]:
    """Puts them there in one transaction, as a run of their own, counted as any; their request ids, in order."""
    run_id = f"run_past{next(_runs)}"
    past = list(rows)
    ids = [f"req_{run_id}_{number}" for number in range(1, len(past) + 1)]
    instants = [row.at for row in past]
    run = {"run": run_id, "count": len(past), "first": min(instants), "last": max(instants)}
    with psycopg.connect(conninfo) as connection:
        for day in {row.at.date() for row in past}:
            connection.execute("SELECT usage.ensure_partitions(%(day)s, %(day)s)", {"day": day})
        connection.execute(
            ROWS,
            run
            | {"instants": instants, "endpoints": [row.endpoint for row in past]}
            | {"statuses": [row.status for row in past], "accepts": [row.accepted for row in past]}
            | {"keys": [row.key_id for row in past], "accounts": [row.account_id for row in past], "ids": ids},
        )
        for statement in (COUNT, UNPROVEN, SETTLED):
            connection.execute(statement, run)
    return ids
