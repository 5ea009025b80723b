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


def put_rows(conninfo: str, rows: Iterable[PastRow]) -> list[str]:
    """Puts them there in one transaction, as a run of their own; their request ids, in order."""
    run_id = f"run_past{next(_runs)}"
    ids: list[str] = []
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        for number, row in enumerate(rows, 1):
            day = row.at.date()
            cursor.execute("SELECT usage.ensure_partitions(%(day)s, %(day)s)", {"day": day})
            ids.append(f"req_{run_id}_{number}")
            cursor.execute(
                "INSERT INTO usage.access_log (run_id, seq, salt, occurred_at, method, endpoint, status, outcome,"
                " accepted, key_id, account_id, key_hash, client_ip, request_id) VALUES (%(run)s, %(seq)s, '', %(at)s,"
                " 'GET', %(endpoint)s, %(status)s, 'ok', %(accepted)s, %(key)s, %(account)s, 'f00', '203.0.113.9',"
                " %(id)s)",
                {
                    "run": run_id,
                    "seq": number,
                    "at": row.at,
                    "endpoint": row.endpoint,
                    "status": row.status,
                    "accepted": row.accepted,
                    "key": row.key_id,
                    "account": row.account_id,
                    "id": ids[-1],
                },
            )
    return ids
