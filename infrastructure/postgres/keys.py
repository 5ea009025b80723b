"""The keys' view and the vault of hashes: what authentication and listings read, true when an event commits.

It is the revocation projection: a revoke, retire, expiry, scope or network change stands here when its event does.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ports import KeyView, StoredKey
from application.usage_ports import KeyUsage
from domain import api_key_events as events
from domain.access import Networks, Plan, Scopes
from domain.credential import Environment
from domain.events import Event
from domain.ids import AccountId, KeyId
from domain.key_status import KeyStatus
from domain.verdict import KeyFacts
from infrastructure.postgres.pool import Database


class KeysView:
    """One row a key, all columns from its events alone."""

    name = "keys"

    INSERT = """
        INSERT INTO views.keys (
            key_id, account_id, name, environment, prefix, scopes, allowed_ips, created_at, expires_at,
            rotation_due_at, rotation_flagged, disabled, revoked_at, expiry_recorded, retires_at,
            lineage_id, replaces, replaced_by, created_position, position
        ) VALUES (
            %(key_id)s, %(account_id)s, %(name)s, %(environment)s, %(prefix)s, %(scopes)s, %(allowed_ips)s,
            %(created_at)s, %(expires_at)s, %(rotation_due_at)s, false, false, NULL, false, NULL,
            %(lineage_id)s, %(replaces)s, NULL, ledger.at(%(position)s), ledger.at(%(position)s)
        )
    """
    RENAME = "UPDATE views.keys SET name = %(name)s, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s"
    RESCOPE = "UPDATE views.keys SET scopes = %(scopes)s, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s"
    RESTRICT = """
        UPDATE views.keys SET allowed_ips = %(allowed_ips)s, position = ledger.at(%(position)s)
        WHERE key_id = %(key_id)s
    """
    FLAG = "UPDATE views.keys SET rotation_flagged = true, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s"
    ROTATE = """
        UPDATE views.keys SET replaced_by = %(successor_id)s, replaced_at = coalesce(replaced_at, %(at)s),
            retires_at = %(retires_at)s, position = ledger.at(%(position)s)
        WHERE key_id = %(key_id)s
    """
    WITHDRAW = """
        UPDATE views.keys SET replaced_by = NULL, replaced_at = NULL, retires_at = NULL,
            position = ledger.at(%(position)s)
        WHERE key_id = %(key_id)s
    """
    RESCHEDULE = """
        UPDATE views.keys SET rotation_due_at = %(due_at)s, rotation_flagged = false, position = ledger.at(%(position)s)
        WHERE key_id = %(key_id)s
    """
    SET_END = """
        UPDATE views.keys SET retires_at = %(retires_at)s, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s
    """
    SET_DISABLED = (
        "UPDATE views.keys SET disabled = %(disabled)s, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s"
    )
    REVOKE = "UPDATE views.keys SET revoked_at = %(at)s, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s"
    EXPIRE = (
        "UPDATE views.keys SET expiry_recorded = true, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s"
    )
    ANNOUNCE_EXPIRY = """
        UPDATE views.keys SET expiry_announced_at = %(at)s, position = ledger.at(%(position)s) WHERE key_id = %(key_id)s
    """
    CLEAR = "DELETE FROM views.keys"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what a key's event means."""
        if isinstance(event, events.Created | events.Imported):
            self._insert(cursor, event, position)
            return
        change = _change(event)
        if change is not None:
            statement, values = change
            cursor.execute(statement, values | {"key_id": event.originator_id, "position": position})

    def _insert(self, cursor: Cursor[TupleRow], event: events.Created | events.Imported, position: int) -> None:
        created_at = event.created_at if isinstance(event, events.Imported) else None
        cursor.execute(
            self.INSERT,
            {
                "key_id": event.originator_id,
                "account_id": event.account_id,
                "name": event.name,
                "environment": event.environment,
                "prefix": event.prefix,
                "scopes": None if event.scopes is None else list(event.scopes),
                "allowed_ips": None if event.allowed_ips is None else list(event.allowed_ips),
                "created_at": created_at or event.timestamp,
                "expires_at": event.expires_at,
                "rotation_due_at": event.rotation_due_at,
                "lineage_id": event.lineage_id,
                "replaces": event.replaces,
                "position": position,
            },
        )

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row; the vault stays, it is no projection."""
        cursor.execute(self.CLEAR)


def _change(event: Event) -> tuple[LiteralString, dict[str, Any]] | None:  # noqa: C901, PLR0911, PLR0912 - one line an event
    match event:
        case events.Renamed():
            return KeysView.RENAME, {"name": event.name}
        case events.Rescoped():
            return KeysView.RESCOPE, {"scopes": None if event.scopes is None else list(event.scopes)}
        case events.NetworksChanged():
            return KeysView.RESTRICT, {"allowed_ips": None if event.allowed_ips is None else list(event.allowed_ips)}
        case events.RotationFellDue():
            return KeysView.FLAG, {}
        case events.Rotated():
            return KeysView.ROTATE, {
                "successor_id": event.successor_id,
                "retires_at": event.retires_at,
                "at": event.timestamp,
            }
        case events.RotationWithdrawn():
            return KeysView.WITHDRAW, {}
        case events.RotationDueChanged():
            return KeysView.RESCHEDULE, {"due_at": event.rotation_due_at}
        case events.GraceBegan() | events.GraceExtended():
            return KeysView.SET_END, {"retires_at": event.retires_at}
        case events.Disabled():
            return KeysView.SET_DISABLED, {"disabled": True}
        case events.Enabled():
            return KeysView.SET_DISABLED, {"disabled": False}
        case events.Revoked():
            return KeysView.REVOKE, {"at": event.timestamp}
        case events.Expiring():
            return KeysView.ANNOUNCE_EXPIRY, {"at": event.timestamp}
        case events.Expired():
            return KeysView.EXPIRE, {}
        case _:
            return None


class PostgresKeys:
    """The ports `Keys` and `DueKeys`."""

    FIND = """
        SELECT key_id, account_id, name, environment, prefix, scopes, allowed_ips, created_at, expires_at,
               rotation_due_at, disabled, revoked_at, retires_at, lineage_id, replaces, replaced_by,
               created_position, position
        FROM views.keys WHERE key_id = %(key_id)s
    """
    # Whoever changes a key waits for each round-trip, and under load a turn of the processor for each: so it is one.
    FIND_WITH_USAGE = """
        SELECT k.key_id, k.account_id, k.name, k.environment, k.prefix, k.scopes, k.allowed_ips, k.created_at,
               k.expires_at, k.rotation_due_at, k.disabled, k.revoked_at, k.retires_at, k.lineage_id, k.replaces,
               k.replaced_by, k.created_position, k.position,
               coalesce(c.requests, 0), coalesce(c.failed_attempts, 0), c.first_used_at, c.last_used_at
        FROM views.keys AS k LEFT JOIN usage.counts_of(ARRAY[%(key_id)s]) AS c ON c.key_id = k.key_id
        WHERE k.key_id = %(key_id)s
    """
    # The CASE says what ApiKey.status says; tests/infrastructure/test_keys_view.py holds the two together.
    PAGE = """
        SELECT key_id, account_id, name, environment, prefix, scopes, allowed_ips, created_at, expires_at,
               rotation_due_at, disabled, revoked_at, retires_at, lineage_id, replaces, replaced_by,
               created_position, position
        FROM views.keys
        WHERE account_id = %(account_id)s
          AND created_position < %(before)s
          AND (%(environment)s::text IS NULL OR environment = %(environment)s)
          AND (%(status)s::text IS NULL OR %(status)s = CASE
                WHEN revoked_at IS NOT NULL OR retires_at <= %(now)s THEN 'revoked'
                WHEN expires_at <= %(now)s THEN 'expired'
                WHEN disabled THEN 'disabled'
                WHEN replaced_by IS NOT NULL THEN 'rotating'
                WHEN rotation_due_at <= %(now)s THEN 'rotation_due'
                ELSE 'active' END)
        ORDER BY created_position DESC LIMIT %(limit)s
    """
    # Three look-ups by primary key and one end of an index, whatever the number of keys.
    _STORED = """
        SELECT k.key_id, k.account_id, k.environment, k.name, k.scopes, k.allowed_ips, k.disabled, k.revoked_at,
               k.expires_at, k.retires_at, a.suspended, a.plan, k.position, k.replaced_by, k.replaced_at,
               v.verifier, v.receipt, (SELECT max(position) FROM ledger.events)
        FROM views.keys AS k
        JOIN views.accounts AS a ON a.account_id = k.account_id
        JOIN credentials.verifiers AS v ON v.key_id = k.key_id
    """
    STORED = _STORED + "WHERE k.key_id = %(key_id)s"
    # An index for each of the two ways; at most one row by the first, eight for each prefix by the second.
    IMPORTED = (
        _STORED
        + """
        JOIN credentials.imports AS i ON i.key_id = k.key_id
        WHERE i.sha256 = %(digest)s OR (i.lookup_prefix = ANY(%(prefixes)s) AND i.candidate IS NOT NULL)
        ORDER BY length(i.lookup_prefix) DESC, i.candidate
        """
    )
    KEEP_RECEIPT = "UPDATE credentials.verifiers SET receipt = %(receipt)s WHERE key_id = %(key_id)s"
    TO_RETIRE = """
        SELECT key_id FROM views.keys WHERE revoked_at IS NULL AND retires_at IS NOT NULL AND retires_at <= %(now)s
        ORDER BY retires_at LIMIT %(limit)s
    """
    TO_EXPIRE = """
        SELECT key_id FROM views.keys
        WHERE revoked_at IS NULL AND expires_at IS NOT NULL AND NOT expiry_recorded AND expires_at <= %(now)s
          AND (retires_at IS NULL OR retires_at > %(now)s)
        ORDER BY expires_at LIMIT %(limit)s
    """
    TO_ANNOUNCE = """
        SELECT key_id FROM views.keys
        WHERE revoked_at IS NULL AND replaced_by IS NULL AND expiry_notice_at <= %(now)s AT TIME ZONE 'UTC'
          AND expires_at > %(now)s AND (retires_at IS NULL OR retires_at > %(now)s)
        ORDER BY expiry_notice_at LIMIT %(limit)s
    """
    TO_FLAG = """
        SELECT key_id FROM views.keys
        WHERE revoked_at IS NULL AND NOT rotation_flagged AND replaced_by IS NULL AND rotation_due_at <= %(now)s
          AND NOT disabled AND (expires_at IS NULL OR expires_at > %(now)s)
        ORDER BY rotation_due_at LIMIT %(limit)s
    """
    # By the counts that are exact at once: a settlement may be a window away.
    TO_BEGIN_GRACE = """
        WITH waiting AS MATERIALIZED (
            SELECT key_id, replaced_by FROM views.keys
            WHERE revoked_at IS NULL AND replaced_by IS NOT NULL AND retires_at IS NULL AND NOT expiry_recorded
        )
        SELECT w.key_id, c.first_used_at
        FROM usage.counts_of((SELECT coalesce(array_agg(replaced_by), '{}') FROM waiting)) AS c
        JOIN waiting AS w ON w.replaced_by = c.key_id
        WHERE c.first_used_at IS NOT NULL
        ORDER BY c.first_used_at LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key_id: KeyId) -> KeyView | None:
        """One key, whoever owns it; None when there is none."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.FIND, {"key_id": key_id}).fetchone()
        return None if row is None else key_view(row)

    def find_with_usage(self, key_id: KeyId) -> tuple[KeyView, KeyUsage] | None:
        """As ``find``, with its counts, exact to the last committed row."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.FIND_WITH_USAGE, {"key_id": key_id}).fetchone()
        return None if row is None else (key_view(row[:-4]), KeyUsage(*row[-4:]))

    def page(  # noqa: PLR0913 - a filter
        self,
        account_id: AccountId,
        *,
        environment: Environment | None,
        status: KeyStatus | None,
        before: int | None,
        limit: int,
        now: datetime,
    ) -> Sequence[KeyView]:
        """The account's keys created before that position, newest first."""
        parameters = {
            "account_id": account_id,
            "environment": None if environment is None else environment.value,
            "status": None if status is None else status.value,
            "before": 2**62 if before is None else before,
            "limit": limit,
            "now": now,
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.PAGE, parameters).fetchall()
        return [key_view(row) for row in rows]

    def stored(self, key_id: KeyId) -> StoredKey | None:
        """What authentication needs, in one round-trip; None for an id that was never given out."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.STORED, {"key_id": key_id}).fetchone()
        return None if row is None else _stored(row)

    def imported(self, digest: str, prefixes: Sequence[str]) -> Sequence[StoredKey]:
        """The imported keys with this `sha256:…` verifier, and those with a bcrypt verifier and one of the prefixes."""
        parameters = {"digest": bytes.fromhex(digest.removeprefix("sha256:")), "prefixes": list(prefixes)}
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.IMPORTED, parameters).fetchall()
        return [_stored(row) for row in rows]

    def keep_receipt(self, key_id: KeyId, receipt: bytes) -> None:
        """Puts a receipt beside the verifier."""
        with self._database.cursor() as cursor:
            cursor.execute(self.KEEP_RECEIPT, {"key_id": key_id, "receipt": receipt})

    def to_retire(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys whose grace period is over and not yet on record as revoked."""
        return self._due(self.TO_RETIRE, now, limit)

    def to_expire(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys past their expiry without its event."""
        return self._due(self.TO_EXPIRE, now, limit)

    def to_announce(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys whose expiry has come near and has not been said."""
        return self._due(self.TO_ANNOUNCE, now, limit)

    def to_flag(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys old enough to rotate without their event."""
        return self._due(self.TO_FLAG, now, limit)

    def to_begin_grace(self, limit: int) -> Sequence[tuple[KeyId, datetime]]:
        """Keys whose successor has been used, with the time of its first use."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.TO_BEGIN_GRACE, {"limit": limit}).fetchall()
        return [(KeyId(key_id), first_used_at) for key_id, first_used_at in rows]

    def _due(self, query: LiteralString, now: datetime, limit: int) -> Sequence[KeyId]:
        with self._database.cursor() as cursor:
            rows = cursor.execute(query, {"now": now, "limit": limit}).fetchall()
        return [KeyId(key_id) for (key_id,) in rows]


def _optional_key(text: str | None) -> KeyId | None:
    return None if text is None else KeyId(text)


def key_view(row: TupleRow) -> KeyView:
    """A row of the columns that FIND names."""
    (key_id, account_id, name, environment, prefix, scopes, allowed_ips, created_at, expires_at, rotation_due_at,
     disabled, revoked_at, retires_at, lineage_id, replaces, replaced_by, created_position, position) = row  # fmt: skip
    return KeyView(
        key_id=KeyId(key_id),
        account_id=AccountId(account_id),
        name=name,
        environment=Environment(environment),
        prefix=prefix,
        scopes=None if scopes is None else tuple(scopes),
        allowed_ips=None if allowed_ips is None else tuple(allowed_ips),
        created_at=created_at,
        expires_at=expires_at,
        rotation_due_at=rotation_due_at,
        disabled=disabled,
        revoked_at=revoked_at,
        retires_at=retires_at,
        lineage_id=KeyId(lineage_id),
        replaces=_optional_key(replaces),
        replaced_by=_optional_key(replaced_by),
        created_position=created_position,
        position=position,
    )


def _stored(row: TupleRow) -> StoredKey:
    (key_id, account_id, environment, name, scopes, allowed_ips, disabled, revoked_at, expires_at, retires_at,
     suspended, plan, position, replaced_by, replaced_at, verifier, receipt, read_at) = row  # fmt: skip
    facts = KeyFacts(
        key_id=KeyId(key_id),
        account_id=AccountId(account_id),
        environment=Environment(environment),
        name=name,
        scopes=None if scopes is None else Scopes.parse(scopes),
        networks=None if allowed_ips is None else Networks.parse(allowed_ips),
        disabled=disabled,
        revoked_at=revoked_at,
        expires_at=expires_at,
        retires_at=retires_at,
        account_suspended=suspended,
        plan=Plan(plan),
        position=position,
        replaced_by=_optional_key(replaced_by),
        replaced_at=replaced_at,
    )
    return StoredKey(facts, verifier, None if receipt is None else bytes(receipt), read_at)
