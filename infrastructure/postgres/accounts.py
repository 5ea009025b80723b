"""The accounts' view: written in each event's transaction, read by the operator's commands."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from eventsourcing.persistence import StoredEvent
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.event_json import EventJson
from application.ports import AccountView
from domain.account import (
    HandoverChanged,
    NoticesChanged,
    Opened,
    PlanChanged,
    Reinstated,
    RotationDueDaysChanged,
    Suspended,
)
from domain.events import Event
from domain.ids import AccountId
from domain.notices import MUTABLE, NoticeKind
from infrastructure.postgres.pool import Database


class AccountsView:
    """One row an account."""

    name = "accounts"

    INSERT = """
        INSERT INTO views.accounts (account_id, name, email, plan, suspended, opened_at, position)
        VALUES (%(account_id)s, %(name)s, %(email)s, %(plan)s, false, %(at)s, ledger.at(%(position)s))
    """
    SET_PLAN = """
        UPDATE views.accounts SET plan = %(plan)s, position = ledger.at(%(position)s) WHERE account_id = %(account_id)s
    """
    SET_SUSPENDED = """
        UPDATE views.accounts SET suspended = %(suspended)s, position = ledger.at(%(position)s)
        WHERE account_id = %(account_id)s
    """
    SET_ROTATION_DUE_DAYS = """
        UPDATE views.accounts SET rotation_due_days = %(days)s, position = ledger.at(%(position)s)
        WHERE account_id = %(account_id)s
    """
    SET_NOTICES = """
        UPDATE views.accounts
        SET notice_email = %(notice_email)s, muted_notices = %(muted)s, position = ledger.at(%(position)s)
        WHERE account_id = %(account_id)s
    """
    SET_HANDOVER = """
        UPDATE views.accounts SET hand_over_to = %(endpoint_id)s, position = ledger.at(%(position)s)
        WHERE account_id = %(account_id)s
    """
    CLEAR = "DELETE FROM views.accounts"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what an account's event means."""
        values: dict[str, Any] = {"account_id": event.originator_id, "position": position}
        match event:
            case Opened():
                values |= {"name": event.name, "email": event.email, "plan": event.plan, "at": event.timestamp}
                cursor.execute(self.INSERT, values)
            case PlanChanged():
                cursor.execute(self.SET_PLAN, values | {"plan": event.plan})
            case Suspended():
                cursor.execute(self.SET_SUSPENDED, values | {"suspended": True})
            case Reinstated():
                cursor.execute(self.SET_SUSPENDED, values | {"suspended": False})
            case RotationDueDaysChanged():
                cursor.execute(self.SET_ROTATION_DUE_DAYS, values | {"days": event.rotation_due_days})
            case NoticesChanged():
                cursor.execute(self.SET_NOTICES, values | {"notice_email": event.email, "muted": list(event.muted)})
            case HandoverChanged():
                cursor.execute(self.SET_HANDOVER, values | {"endpoint_id": event.endpoint_id})
            case _:
                pass

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row."""
        cursor.execute(self.CLEAR)


class PostgresAccounts:
    """The port `Accounts`."""

    # Of the webhook that was chosen for successors, whether there still is one; by its primary key.
    FIND = """
        SELECT account_id, name, email, plan, suspended, opened_at, position, notice_email, muted_notices,
               rotation_due_days,
               (SELECT endpoint_id FROM views.webhooks WHERE endpoint_id = hand_over_to)
        FROM views.accounts WHERE account_id = %(account_id)s
    """
    PAGE = """
        SELECT account_id, name, email, plan, suspended, opened_at, position, notice_email, muted_notices,
               rotation_due_days,
               (SELECT endpoint_id FROM views.webhooks WHERE endpoint_id = hand_over_to)
        FROM views.accounts WHERE position < %(before)s ORDER BY position DESC LIMIT %(limit)s
    """
    # By the constraint events_stream_version.
    NOTICES_AT = """
        SELECT stream_id, version, topic, state FROM ledger.events
        WHERE stream_id = %(account_id)s AND topic = 'account.notices_changed' AND position <= %(position)s
        ORDER BY version DESC LIMIT 1
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, account_id: AccountId) -> AccountView | None:
        """One account; None when there is none."""
        with self._database.cursor() as cursor:
            return self.read(cursor, account_id)

    @classmethod
    def read(cls, cursor: Cursor[TupleRow], account_id: AccountId) -> AccountView | None:
        """The same inside a transaction of the caller's."""
        row = cursor.execute(cls.FIND, {"account_id": account_id}).fetchone()
        return None if row is None else _account(row)

    @classmethod
    def read_notices_at(cls, cursor: Cursor[TupleRow], account_id: AccountId, position: int) -> AccountView | None:
        """The same, with the address of its notices and what is muted as of that position."""
        account = cls.read(cursor, account_id)
        if account is None or account.position <= position:
            return account
        row = cursor.execute(cls.NOTICES_AT, {"account_id": account_id, "position": position}).fetchone()
        if row is None:
            return replace(account, notice_email=None, muted=frozenset())
        event = EventJson().to_domain_event(StoredEvent(row[0], row[1], row[2], bytes(row[3])))
        if not isinstance(event, NoticesChanged):
            raise TypeError(type(event).__name__)
        return replace(account, notice_email=event.email, muted=_kinds(event.muted))

    def page(self, *, before: int | None, limit: int) -> Sequence[AccountView]:
        """Accounts whose newest event lies before that position, newest first."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.PAGE, {"before": 2**62 if before is None else before, "limit": limit}).fetchall()
        return [_account(row) for row in rows]


def _account(row: TupleRow) -> AccountView:
    account_id, name, email, plan, suspended, opened_at, position, notice_email, muted, due_days, hand_over_to = row
    return AccountView(
        account_id=AccountId(account_id),
        name=name,
        email=email,
        plan=plan,
        suspended=suspended,
        opened_at=opened_at,
        position=position,
        notice_email=notice_email,
        muted=_kinds(muted),
        rotation_due_days=due_days,
        hand_over_to=hand_over_to,
    )


def _kinds(texts: Collection[str]) -> frozenset[NoticeKind]:
    # One that this release does not know is a newer one's.
    return frozenset(kind for kind in MUTABLE if kind.value in texts)
