"""Databases full of keys: real events, views and receipts, so that everything that the service does with a key works.

Every key is valid, and made from its number, so that none is kept. The verifier alone is not its own: one bcrypt text
of another credential stands for all. A key is thus accepted by its receipt or not at all: a bcrypt would refuse it.
"""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from application.event_json import EventJson
from application.rotation import RotationWorkflow
from application.webhook_failure import WebhookFailureWorkflow
from domain.access import Plan
from domain.account import Account
from domain.api_key import ApiKey
from domain.credential import Environment, mint_key
from domain.events import Origin
from domain.ids import AccountId, KeyId
from domain.naming import Name
from infrastructure.hashing import BcryptVerifier, SecretRing
from infrastructure.postgres.migrate import migrate
from infrastructure.postgres.usage import UsageHistory

KEYS_OF_ACCOUNT = 1000
STRIDE = 611_953  # a prime: neighbours in the order of use are far apart in every table and index
_KEY, _ACCOUNT, _PREFIX = "KKKKKKKKK", "AAAAAAAAAAAAAAAA", "sk_live_"
_NAME = Name("Bench key")

FILL = """
    CREATE TEMPORARY TABLE seeds (n bigint, key_id text, account_id text, receipt bytea, state bytea) ON COMMIT DROP
"""
COPY = "COPY seeds (n, key_id, account_id, receipt, state) FROM STDIN"
EVENTS = """
    INSERT INTO ledger.events (position, stream_id, version, topic, state)
    SELECT %(first)s + n, key_id, 1, 'key.created', state FROM seeds ORDER BY n
"""
VIEW = """
    INSERT INTO views.keys (
        key_id, account_id, name, environment, prefix, scopes, allowed_ips, created_at, expires_at, rotation_due_at,
        rotation_flagged, disabled, revoked_at, expiry_recorded, retires_at, lineage_id, replaces, replaced_by,
        created_position, position
    )
    SELECT key_id, account_id, %(name)s, 'live', 'sk_live_' || substr(key_id, 5), NULL, NULL, %(now)s, NULL,
           %(now)s + interval '90 days', false, false, NULL, false, NULL, key_id, NULL, NULL,
           %(first)s + n, %(first)s + n
    FROM seeds ORDER BY n
"""
VAULT = """
    INSERT INTO credentials.verifiers (key_id, verifier, receipt)
    SELECT key_id, %(verifier)s, receipt FROM seeds ORDER BY n
"""
ACCOUNT_EVENT = """
    INSERT INTO ledger.events (position, stream_id, version, topic, state)
    VALUES (%(position)s, %(account)s, 1, 'account.opened', %(state)s)
"""
ACCOUNT_VIEW = """
    INSERT INTO views.accounts (account_id, name, email, plan, suspended, opened_at, position)
    VALUES (%(account)s, 'Bench', 'bench@example.com', 'scale', false, %(now)s, %(position)s)
"""
FOLLOWED = """
    INSERT INTO views.progress (view, position) VALUES (%(view)s, %(position)s)
    ON CONFLICT (view) DO UPDATE SET position = excluded.position
"""
# Nobody gets a mail for each of these keys, and no rotation of theirs begins, while something else is measured.
TOLD = "UPDATE outbox.progress SET position = %(position)s"
REACTED = """
    INSERT INTO workflow.progress (workflow, position) VALUES (%(workflow)s, %(position)s)
    ON CONFLICT (workflow) DO UPDATE SET position = excluded.position
"""


@dataclass(frozen=True)
class Place:
    """A database with ``count`` keys, and the root secret that they were made with."""

    name: str
    conninfo: str
    count: int
    files: Path
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def ring(self) -> SecretRing:
        """What makes and checks its keys."""
        return SecretRing([self.secret])

    def key(self, number: int, ring: SecretRing | None = None) -> tuple[KeyId, str]:
        """The id and the text of a key; numbers from ``count`` on are keys that are not stored."""
        seed = self.secret + number.to_bytes(8, "big")
        key_id, secret = mint_key(
            Environment.LIVE,
            id_entropy=hashlib.sha256(b"id" + seed).digest(),
            secret_entropy=hashlib.sha256(b"secret" + seed).digest(),
            tag=(ring or self.ring).tag,
        )
        return key_id, secret.reveal()

    def keys(self, first: int, count: int) -> Iterator[tuple[KeyId, str]]:
        """So many keys in an order that has nothing to do with that of the tables; ``first`` counts in that order."""
        ring = self.ring
        for turn in range(first, first + count):
            yield self.key(turn * STRIDE % self.count, ring)

    def keys_file(self, first: int, count: int) -> Path:
        """Those keys as headers, one a line; made once."""
        path = self.files / f"{self.name}.{first}.{count}.keys"
        if not path.exists():
            self.files.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(f"Authorization: Bearer {key}\n" for _, key in self.keys(first, count)), encoding="ascii"
            )
        return path


def database(conninfo: str, name: str) -> str:
    """A new, empty database of that name, in place of an older one; its conninfo."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(conninfo, dbname=name)


def seeded(conninfo: str, count: int, files: Path) -> Place:
    """A new database with ``count`` keys, a thousand to an account."""
    name = f"keys_{count}"
    for stale in files.glob(f"{name}.*.keys"):
        stale.unlink()
    place = Place(name, database(conninfo, name), count, files)
    migrate(place.conninfo)
    now = datetime.now(UTC)
    accounts = [AccountId(f"acc_{number:016d}") for number in range(-(-count // KEYS_OF_ACCOUNT))]
    values = {
        "first": len(accounts) + 1,
        "name": _NAME,
        "now": now,
        "verifier": BcryptVerifier(12).hash(b"the credential of nobody"),
    }
    with psycopg.connect(place.conninfo) as connection:
        _open_accounts(connection, accounts, now)
        connection.execute(FILL)
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            for row in _rows(place, accounts, str(values["verifier"]), now):
                copy.write(row)
        for statement in (EVENTS, VIEW, VAULT):
            connection.execute(statement, values)
        head = len(accounts) + count
        connection.execute(FOLLOWED, {"view": UsageHistory.name, "position": head})
        connection.execute(TOLD, {"position": head})
        for workflow in (RotationWorkflow.name, WebhookFailureWorkflow.name):
            connection.execute(REACTED, {"workflow": workflow, "position": head})
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return place


def _open_accounts(connection: psycopg.Connection, accounts: list[AccountId], now: datetime) -> None:
    for position, account_id in enumerate(accounts, 1):
        account = Account.open(
            account_id, by=_origin(now), name=Name("Bench"), email="bench@example.com", plan=Plan.SCALE
        )
        state = EventJson().to_stored_event(account.collect_events()[0]).state
        values = {"position": position, "account": account_id, "state": state, "now": now}
        connection.execute(ACCOUNT_EVENT, values)
        connection.execute(ACCOUNT_VIEW, values)


def _rows(place: Place, accounts: list[AccountId], verifier: str, now: datetime) -> Iterator[str]:
    """Lines for COPY: one real `key.created` with the ids exchanged."""
    model = ApiKey.create(
        KeyId(f"key_{_KEY}"),
        by=_origin(now),
        account_id=AccountId(f"acc_{_ACCOUNT}"),
        name=_NAME,
        environment=Environment.LIVE,
        prefix=f"{_PREFIX}{_KEY}",
        verifier_digest=hashlib.sha256(verifier.encode("ascii")).hexdigest(),
        scopes=None,
        networks=None,
        expires_at=None,
    )
    state = EventJson().to_stored_event(model.collect_events()[0]).state.decode("ascii")
    ring = place.ring
    for number in range(place.count):
        key_id, text = place.key(number, ring)
        account_id = accounts[number // KEYS_OF_ACCOUNT]
        own = state.replace(_KEY, key_id[4:]).replace(f"acc_{_ACCOUNT}", account_id)
        receipt = ring.receipt(text.encode("ascii")).hex()
        yield f"{number}\t{key_id}\t{account_id}\t\\\\x{receipt}\t\\\\x{own.encode('ascii').hex()}\n"


def _origin(now: datetime) -> Origin:
    return Origin("system:bench", "req_0000000000000000000000", now)
