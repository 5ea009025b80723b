"""`keyledger account notifications`: where an account's notices go, and which are sent."""

from argparse import Namespace

from application.accounts import NoticeChange
from domain.mail_address import MailAddress
from domain.notices import NoticeKind
from interfaces.cli.exits import Exit
from interfaces.cli.render import as_json, fields
from interfaces.cli.session import operator
from interfaces.cli.terminal import write
from interfaces.http.caller import parsed
from interfaces.http.notice_bodies import NotificationsBody
from interfaces.settings import Settings


def notifications(arguments: Namespace, settings: Settings) -> int:
    """Changes what is asked to be changed, and shows what holds then."""
    email = ... if arguments.email is None else parsed("email", MailAddress.parse, arguments.email)
    change = NoticeChange(
        email=None if arguments.account_email else email,
        mute=frozenset(map(NoticeKind, arguments.mute)),
        unmute=frozenset(map(NoticeKind, arguments.unmute)),
    )
    with operator(settings) as op:
        account = op.account(arguments.id)
        if change != NoticeChange():
            account = op.manage.accounts.change_notices(account_id=account.account_id, change=change, by=op.origin)
        body = NotificationsBody.of(account)
        write(as_json(body) if arguments.json else fields(body))
    return Exit.OK
