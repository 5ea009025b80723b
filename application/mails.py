"""Mails as an operator sees them: what was and is to be handed over, what became of it, and one more attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from application.outbox import MessageId, MessageState
from application.webhooks import AttemptView
from domain.errors import NotFoundError
from domain.ids import AccountId

UNKNOWN_MAIL: Final = "No such mail"


@dataclass(frozen=True, slots=True)
class MailView:
    """One mail, with its attempts, oldest first. ``to``: its address; ``next_at`` None: there is no other attempt."""

    mail_id: MessageId
    account_id: AccountId
    to: str
    kind: str
    state: MessageState
    created_at: datetime
    next_at: datetime | None
    attempts: tuple[AttemptView, ...]
    number: int


class Mails(Protocol):
    """What the outbox holds of mails."""

    def page(
        self, *, account_id: AccountId | None, state: MessageState | None, before: int | None, limit: int
    ) -> Sequence[MailView]:
        """Mails with a number below that one, newest first; None: of all accounts, in every state."""
        ...

    def find(self, mail_id: MessageId) -> MailView | None:
        """One mail; None for what is none, as a message of another channel."""
        ...

    def try_now(self, mail_id: MessageId, now: datetime) -> None:
        """Makes the mail due, whatever its state; one that is under way stays so."""
        ...


class MailManagement:
    """What an operator does with mails."""

    def __init__(self, mails: Mails) -> None:
        self._mails = mails

    def page(
        self,
        *,
        account_id: AccountId | None = None,
        state: MessageState | None = None,
        before: int | None = None,
        limit: int,
    ) -> Sequence[MailView]:
        """Mails, newest first: attempts with the server's code, and the next try."""
        return self._mails.page(account_id=account_id, state=state, before=before, limit=limit)

    def get(self, mail_id: MessageId) -> MailView:
        """One mail; NotFoundError."""
        mail = self._mails.find(mail_id)
        if mail is None:
            raise NotFoundError(UNKNOWN_MAIL)
        return mail

    def retry(self, mail_id: MessageId, *, now: datetime) -> MailView:
        """One more attempt at a mail now, under the same Message-ID, whatever came of it; NotFoundError.

        Should it fail, it is tried again for as long as attempts of the schedule are left.
        """
        self.get(mail_id)
        self._mails.try_now(mail_id, now)
        return self.get(mail_id)
