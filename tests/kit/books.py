"""Do the books agree: the views with the ledger, the keys with the vault. For a database that nobody else writes to."""

import hashlib
import json
from typing import LiteralString

import psycopg

from infrastructure.eventstore import PostgresRecorder
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.campaigns import CampaignsView
from infrastructure.postgres.keys import KeysView
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import UsageHistory, UsageTotals
from infrastructure.postgres.webhooks import WebhooksView
from infrastructure.postgres.workflow import WorkflowView
from infrastructure.projections import Rebuilder, Tailer

VIEWS: dict[str, LiteralString] = {
    "views.accounts": "SELECT * FROM views.accounts ORDER BY account_id",
    "views.keys": "SELECT * FROM views.keys ORDER BY key_id",
    "views.campaigns": "SELECT * FROM views.campaigns ORDER BY campaign_id",
    "views.webhooks": "SELECT * FROM views.webhooks ORDER BY endpoint_id",
    "workflow.processes": "SELECT * FROM workflow.processes ORDER BY process_id",
    "workflow.timers": "SELECT process_id, step, due_at FROM workflow.timers ORDER BY process_id, step",
    "views.progress": "SELECT * FROM views.progress ORDER BY view",
    "usage.totals": "SELECT * FROM usage.totals ORDER BY key_id",
    "usage.runs": "SELECT * FROM usage.runs ORDER BY run_id",
    "usage.live_counts": "SELECT * FROM usage.live_counts ORDER BY key_id, run_id, after_row, requests",
    "usage.windows": "SELECT * FROM usage.windows ORDER BY key_id, position",
}
HALF_MADE: dict[str, LiteralString] = {
    "a key without its verifier": """
        SELECT key_id FROM views.keys AS k
        WHERE NOT EXISTS (SELECT FROM credentials.verifiers AS v WHERE v.key_id = k.key_id)
    """,
    "a verifier without its key": """
        SELECT key_id FROM credentials.verifiers AS v
        WHERE NOT EXISTS (SELECT FROM views.keys AS k WHERE k.key_id = v.key_id)
    """,
    "a key without the beginning of its stream": """
        SELECT key_id FROM views.keys AS k
        WHERE NOT EXISTS (
            SELECT FROM ledger.events AS e WHERE e.stream_id = k.key_id AND e.position = k.created_position
        )
    """,
    "a stream without its key": """
        SELECT DISTINCT stream_id FROM ledger.events AS e
        WHERE stream_id LIKE 'key\\_%' AND NOT EXISTS (SELECT FROM views.keys AS k WHERE k.key_id = e.stream_id)
    """,
    "a stream with a gap": """
        SELECT stream_id FROM ledger.events GROUP BY stream_id
        HAVING min(version) <> 1 OR max(version) <> count(*)
    """,
    "a ledger with a gap": """
        SELECT max(position)::text FROM ledger.events HAVING min(position) <> 1 OR max(position) <> count(*)
    """,
    "a key whose successor does not replace it": """
        SELECT key_id FROM views.keys AS k
        WHERE replaced_by IS NOT NULL
          AND NOT EXISTS (SELECT FROM views.keys AS s WHERE s.key_id = k.replaced_by AND s.replaces = k.key_id)
    """,
    # A successor that nobody saw is replaced by the next rotation, and revoked with it.
    "a successor in force that its predecessor does not name": """
        SELECT key_id FROM views.keys AS s
        WHERE replaces IS NOT NULL AND revoked_at IS NULL
          AND NOT EXISTS (SELECT FROM views.keys AS k WHERE k.key_id = s.replaces AND k.replaced_by = s.key_id)
    """,
}
CREATED = """
    SELECT e.state, v.verifier FROM ledger.events AS e JOIN credentials.verifiers AS v ON v.key_id = e.stream_id
    JOIN views.keys AS k ON k.key_id = e.stream_id AND k.created_position = e.position
"""

Rows = dict[str, list[tuple[object, ...]]]


def rows(conninfo: str) -> Rows:
    """Every row of every view."""
    with psycopg.connect(conninfo) as connection:
        return {view: connection.execute(select).fetchall() for view, select in VIEWS.items()}


def half_made(conninfo: str) -> list[str]:
    """What there is that should be whole or not at all: a word and an id each."""
    with psycopg.connect(conninfo) as connection:
        found = [f"{what}: {name}" for what, select in HALF_MADE.items() for (name,) in connection.execute(select)]
        for state, verifier in connection.execute(CREATED):
            created = json.loads(state)
            if created["verifier_digest"] != hashlib.sha256(verifier.encode()).hexdigest():
                found.append(f"a verifier that is not the event's: {created['prefix']}")
    return found


def rebuilt(conninfo: str) -> tuple[Rows, Rows]:
    """Every row of every view as they are, the following ones first brought up to date, and after a rebuild."""
    with Database(conninfo, size_max=2) as database:
        immediate = [AccountsView(), KeysView(), CampaignsView(), WebhooksView(), UsageTotals(), WorkflowView()]
        recorder = PostgresRecorder(database, immediate)
        tailer = Tailer(database, recorder, [UsageHistory()])
        while tailer.catch_up():
            pass
        before = rows(conninfo)
        Rebuilder(database, recorder, immediate, [UsageHistory()]).rebuild()
        return before, rows(conninfo)
