"""`keyledger mail`: the mails of all accounts, what became of each, and one more attempt; for the operator."""

from argparse import Namespace
from datetime import datetime
from typing import Self

import msgspec

from application.mails import UNKNOWN_MAIL, MailView
from application.outbox import MessageId, MessageState
from domain.errors import NotFoundError
from domain.ids import MalformedIdError
from interfaces.cli.exits import Exit
from interfaces.cli.paging import limit_of, show_page
from interfaces.cli.render import as_json, fields
from interfaces.cli.session import operator
from interfaces.cli.terminal import say, write
from interfaces.http.paging import Pager
from interfaces.http.webhook_bodies import AttemptBody
from interfaces.settings import Settings


class MailBody(msgspec.Struct):
    """One mail: its ``id`` begins the Message-ID of every attempt. ``next_attempt_at`` is null after the last."""

    id: str
    account_id: str
    to: str
    kind: str
    status: str
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[AttemptBody]

    @classmethod
    def of(cls, mail: MailView) -> Self:
        """The body of a mail."""
        attempts = [AttemptBody.of(each) for each in mail.attempts]
        return cls(
            mail.mail_id,
            mail.account_id,
            mail.to,
            mail.kind,
            mail.state.value,
            mail.created_at,
            mail.next_at,
            attempts,
        )


def list_all(arguments: Namespace, settings: Settings) -> int:
    """Mails, newest first."""
    limit = limit_of(arguments)
    state = MessageState.FAILED if arguments.failed else None
    with operator(settings) as op:
        account_id = None if arguments.account is None else op.account(arguments.account).account_id
        pager = Pager(op.cursors, listing=f"mails {account_id} {state}")
        mails = op.manage.mails.page(
            account_id=account_id, state=state, before=pager.position(arguments.cursor), limit=limit + 1
        )
        show_page(
            arguments,
            [MailBody.of(mail) for mail in mails],
            pager=pager,
            positions=[mail.number for mail in mails],
            columns={
                "id": lambda mail: mail.id,
                "kind": lambda mail: mail.kind,
                "to": lambda mail: mail.to,
                "status": lambda mail: mail.status,
                "attempts": lambda mail: len(mail.attempts),
                "last status": lambda mail: mail.attempts[-1].status if mail.attempts else None,
                "last error": lambda mail: mail.attempts[-1].error if mail.attempts else None,
                "next attempt": lambda mail: mail.next_attempt_at,
                "created at": lambda mail: mail.created_at,
            },
        )
    return Exit.OK


def retry(arguments: Namespace, settings: Settings) -> int:
    """Makes one more attempt at a mail; the running service's background process makes it."""
    try:
        mail_id = MessageId.parse(arguments.id)
    except MalformedIdError as error:
        raise NotFoundError(UNKNOWN_MAIL) from error
    with operator(settings) as op:
        body = MailBody.of(op.manage.mails.retry(mail_id, now=op.origin.at))
        write(as_json(body) if arguments.json else fields(body))
        say(f"{body.id} is handed over by the background process within seconds")
    return Exit.OK
