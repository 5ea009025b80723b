"""Which mails an event makes: its notice, to the address and by the preferences of the account at that moment."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.notice_words import SUSPENDED
from application.notifications import TOPICS, KnownKey, address_of, notice_of
from application.outbox import NewMessage
from domain.events import Event
from domain.ids import AccountId, KeyId, RotationId
from infrastructure.postgres.accounts import PostgresAccounts


class NoticeSource:
    """The port `Source` of the outbox."""

    topics = TOPICS

    # A key has one rotation, whose id is made of its own.
    KEY = """
        SELECT name, prefix, replaced_by IS NOT NULL,
               EXISTS (SELECT FROM workflow.processes WHERE process_id = %(rotation_id)s AND state = 'cancelled')
        FROM views.keys WHERE key_id = %(key_id)s
    """

    def messages_for(self, cursor: Cursor[TupleRow], event: Event, position: int) -> Sequence[NewMessage]:
        """One to the account's address, or none."""

        def find_key(key_id: str) -> KnownKey | None:
            values = {"key_id": key_id, "rotation_id": RotationId.of_key(KeyId(key_id))}
            row = cursor.execute(self.KEY, values).fetchone()
            return None if row is None else KnownKey(*row)

        notice = notice_of(event, find_key=find_key)
        if notice is None:
            return []
        account = PostgresAccounts.read_notices_at(cursor, AccountId(notice.account_id), position)
        address = None if account is None else address_of(event, account)
        if account is None or address is None or notice.kind in account.muted:
            return []
        if account.suspended:
            notice = replace(notice, details=notice.details | {SUSPENDED: str(True)})
        payload: dict[str, Any] = msgspec.to_builtins(notice, enc_hook=str)
        return [NewMessage(account.account_id, address, notice.kind.value, payload)]
