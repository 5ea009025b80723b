"""The outbox's mails on PostgreSQL, as an operator lists them."""

from collections.abc import Sequence
from datetime import datetime

from psycopg.rows import TupleRow

from application.mails import MailView
from application.outbox import MessageId, MessageState
from application.webhooks import AttemptView
from domain.ids import AccountId
from infrastructure.postgres.pool import Database


class PostgresMails:
    """The port `Mails`."""

    # By the index messages_of_mail.
    PAGE = """
        SELECT id, account_id, target, kind, state, created_at, next_at, number FROM outbox.messages
        WHERE channel = 'email' AND number < %(before)s AND (%(state)s::text IS NULL OR state = %(state)s)
          AND (%(account_id)s::text IS NULL OR account_id = %(account_id)s)
        ORDER BY number DESC LIMIT %(limit)s
    """
    FIND = """
        SELECT id, account_id, target, kind, state, created_at, next_at, number FROM outbox.messages
        WHERE id = %(id)s AND channel = 'email'
    """
    ATTEMPTS = """
        SELECT message_id, at, status, latency_ms, error FROM outbox.attempts
        WHERE message_id = ANY(%(ids)s) ORDER BY message_id, number
    """
    TRY_NOW = """
        UPDATE outbox.messages SET state = 'pending', next_at = %(now)s, ended_at = NULL
        WHERE id = %(id)s AND channel = 'email'
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, *, account_id: AccountId | None, state: MessageState | None, before: int | None, limit: int
    ) -> Sequence[MailView]:
        """Mails with a number below that one, newest first."""
        parameters = {
            "account_id": account_id,
            "state": None if state is None else state.value,
            "before": 2**62 if before is None else before,
            "limit": limit,
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.PAGE, parameters).fetchall()
        return self._with_attempts(rows)

    def find(self, mail_id: MessageId) -> MailView | None:
        """One mail."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.FIND, {"id": mail_id}).fetchall()
        return next(iter(self._with_attempts(rows)), None)

    def try_now(self, mail_id: MessageId, now: datetime) -> None:
        """Makes the mail due, whatever its state; one that is under way stays so."""
        with self._database.cursor() as cursor:
            cursor.execute(self.TRY_NOW, {"id": mail_id, "now": now})

    def _with_attempts(self, rows: Sequence[TupleRow]) -> list[MailView]:
        with self._database.cursor() as cursor:
            found = cursor.execute(self.ATTEMPTS, {"ids": [row[0] for row in rows]}).fetchall()
        attempts: dict[str, list[AttemptView]] = {}
        for message_id, at, status, latency_ms, error in found:
            attempts.setdefault(message_id, []).append(AttemptView(at, status, latency_ms, error))
        return [_mail(row, attempts.get(row[0], [])) for row in rows]


def _mail(row: TupleRow, attempts: Sequence[AttemptView]) -> MailView:
    mail_id, account_id, to, kind, state, created_at, next_at, number = row
    is_pending = state == MessageState.PENDING.value
    return MailView(
        MessageId(mail_id),
        AccountId(account_id),
        to,
        kind,
        MessageState(state),
        created_at,
        next_at if is_pending else None,
        tuple(attempts),
        number,
    )
