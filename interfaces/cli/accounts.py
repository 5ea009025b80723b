"""`keyledger account`: open, list, suspend, reinstate."""

from argparse import Namespace
from datetime import datetime
from typing import Any, Self

import msgspec

from application.ports import AccountView, Freshness
from domain.access import Plan
from domain.account import ROTATION_DUE_DAYS_MAX
from domain.errors import InvalidError
from domain.ids import WebhookEndpointId
from domain.mail_address import MailAddress
from domain.naming import Name
from interfaces.cli.exits import Exit
from interfaces.cli.paging import limit_of, show_page
from interfaces.cli.render import as_json, fields
from interfaces.cli.session import operator
from interfaces.cli.terminal import say, write
from interfaces.http.caller import parsed
from interfaces.http.keys import ReceiptBody
from interfaces.http.paging import Pager
from interfaces.settings import Settings


class AccountBody(msgspec.Struct):
    """An account."""

    id: str
    name: str
    email: str
    plan: str
    suspended: bool
    opened_at: datetime
    rotation_due_days: int
    hand_over_to: str | None

    @classmethod
    def of(cls, account: AccountView, **more: Any) -> Self:
        """The body of an account."""
        return cls(
            id=account.account_id,
            name=account.name,
            email=account.email,
            plan=account.plan,
            suspended=account.suspended,
            opened_at=account.opened_at,
            rotation_due_days=account.rotation_due_days,
            hand_over_to=account.hand_over_to,
            **more,
        )


class ChangedAccountBody(AccountBody, kw_only=True):
    """An account after a change that holds everywhere."""

    receipt: ReceiptBody


def create(arguments: Namespace, settings: Settings) -> int:
    """Opens an account; its id alone on stdout, or with --json the account."""
    name = parsed("name", Name.parse, arguments.name)
    email = parsed("email", MailAddress.parse, arguments.email)
    with operator(settings) as op:
        account = op.manage.accounts.open(name=name, email=email, plan=Plan(arguments.plan), by=op.origin)
        body = AccountBody.of(account)
        write(as_json(body) if arguments.json else f"{body.id}\n")
        say(f"account {body.id} opened on the {body.plan} plan")
    return Exit.OK


def list_all(arguments: Namespace, settings: Settings) -> int:
    """All accounts, the last changed first."""
    limit = limit_of(arguments)
    with operator(settings) as op:
        pager = Pager(op.cursors, listing="accounts")
        accounts = op.manage.accounts.page(before=pager.position(arguments.cursor), limit=limit + 1)
        show_page(
            arguments,
            [AccountBody.of(account) for account in accounts],
            pager=pager,
            positions=[account.position for account in accounts],
            columns={
                "id": lambda account: account.id,
                "name": lambda account: account.name,
                "email": lambda account: account.email,
                "plan": lambda account: account.plan,
                "suspended": lambda account: account.suspended,
                "opened at": lambda account: account.opened_at,
            },
        )
    return Exit.OK


def rotate_after(arguments: Namespace, settings: Settings) -> int:
    """Sets the age at which the account's new keys are to be rotated."""
    days: int = arguments.days
    if not 1 <= days <= ROTATION_DUE_DAYS_MAX:
        raise InvalidError.of("days", f"must be from 1 to {ROTATION_DUE_DAYS_MAX}")
    with operator(settings) as op:
        account_id = op.account(arguments.id).account_id
        body = AccountBody.of(op.manage.accounts.rotate_after(account_id=account_id, days=days, by=op.origin))
        write(as_json(body) if arguments.json else fields(body))
    return Exit.OK


def hand_over(arguments: Namespace, settings: Settings) -> int:
    """Chooses the webhook that is handed over the successors of the account's keys that fall due; `none`: no more."""
    with operator(settings) as op:
        handover = None
        if arguments.endpoint == "none":
            account = op.account(arguments.id)
        else:
            account = op.account_with_webhooks(arguments.id)
            endpoint_id = parsed("ENDPOINT", WebhookEndpointId.parse, arguments.endpoint)
            handover = op.manage.webhooks.receiver(account_id=account.account_id, endpoint_id=endpoint_id)
        changed = op.manage.accounts.hand_over_to(account_id=account.account_id, handover=handover, by=op.origin)
        body = AccountBody.of(changed)
        write(as_json(body) if arguments.json else fields(body))
    return Exit.OK


def suspend(arguments: Namespace, settings: Settings) -> int:
    """Refuses all keys of an account."""
    with operator(settings) as op:
        account = op.account(arguments.id)
        changed = op.manage.accounts.suspend(account_id=account.account_id, by=op.origin)
        _show_changed(arguments, *changed)
    return Exit.OK


def reinstate(arguments: Namespace, settings: Settings) -> int:
    """Accepts an account's keys again."""
    with operator(settings) as op:
        account = op.account(arguments.id)
        changed = op.manage.accounts.reinstate(account_id=account.account_id, by=op.origin)
        _show_changed(arguments, *changed)
    return Exit.OK


def _show_changed(arguments: Namespace, account: AccountView, freshness: Freshness) -> None:
    body = ChangedAccountBody.of(account, receipt=ReceiptBody.of(freshness))
    write(as_json(body) if arguments.json else fields(body))
