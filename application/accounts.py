"""Accounts, as the operator manages them."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

from application.ledger import Ledger
from application.ports import Accounts, AccountView, Entropy, Freshness, KeyCache
from domain.access import Plan
from domain.account import Account, Handover
from domain.errors import NotFoundError
from domain.events import Origin
from domain.ids import AccountId
from domain.mail_address import MailAddress
from domain.naming import Name
from domain.notices import NoticeKind

UNKNOWN_ACCOUNT = "No such account"


@dataclass(frozen=True, slots=True)
class NoticeChange:
    """What is to change; an Ellipsis leaves the address as it is, None makes it the account's own again."""

    email: MailAddress | EllipsisType | None = ...
    mute: frozenset[NoticeKind] = frozenset()
    unmute: frozenset[NoticeKind] = frozenset()


class AccountManagement:
    """Opens accounts, and suspends them with all their keys."""

    def __init__(self, *, ledger: Ledger, accounts: Accounts, cache: KeyCache, entropy: Entropy) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._cache = cache
        self._entropy = entropy

    def open(self, *, name: Name, email: MailAddress, plan: Plan, by: Origin) -> AccountView:
        """Opens an account; its notices go to ``email``."""
        account_id = AccountId.from_entropy(self._entropy.bytes(16))
        self._ledger.append(Account.open(account_id, by=by, name=name, email=email, plan=plan))
        return self.get(account_id)

    def get(self, account_id: AccountId) -> AccountView:
        """One account; NotFoundError when there is none."""
        account = self._accounts.find(account_id)
        if account is None:
            raise NotFoundError(UNKNOWN_ACCOUNT)
        return account

    def page(self, *, before: int | None = None, limit: int) -> Sequence[AccountView]:
        """All accounts, the last changed first."""
        return self._accounts.page(before=before, limit=limit)

    def change_plan(self, *, account_id: AccountId, plan: Plan, by: Origin) -> AccountView:
        """Moves an account to another plan; holds everywhere when it returns."""
        self._ledger.change(Account, account_id, lambda account: account.change_plan(plan, by=by))
        return self._applied(account_id)[0]

    def rotate_after(self, *, account_id: AccountId, days: int, by: Origin) -> AccountView:
        """Sets the age at which the account's new keys are to be rotated; those that it has keep theirs."""
        self._ledger.change(Account, account_id, lambda account: account.rotate_after(days, by=by))
        return self.get(account_id)

    def hand_over_to(self, *, account_id: AccountId, handover: Handover | None, by: Origin) -> AccountView:
        """Says which webhook is handed over the successors of keys that fall due; None: none, they are made by hand."""
        self._ledger.change(Account, account_id, lambda account: account.hand_over_to(handover, by=by))
        return self.get(account_id)

    def suspend(self, *, account_id: AccountId, by: Origin) -> tuple[AccountView, Freshness]:
        """Refuses all keys of an account; no process accepts one when it returns."""
        self._ledger.change(Account, account_id, lambda account: account.suspend(by=by))
        return self._applied(account_id)

    def reinstate(self, *, account_id: AccountId, by: Origin) -> tuple[AccountView, Freshness]:
        """Accepts a suspended account's keys again."""
        self._ledger.change(Account, account_id, lambda account: account.reinstate(by=by))
        return self._applied(account_id)

    def change_notices(self, *, account_id: AccountId, change: NoticeChange, by: Origin) -> AccountView:
        """Says where an account's notices go, and which are not sent."""

        def command(account: Account) -> None:
            muted = (account.muted | change.mute) - change.unmute
            email = account.notice_email if change.email is ... else change.email
            account.change_notices(email=email, muted=muted, by=by)

        self._ledger.change(Account, account_id, command)
        return self.get(account_id)

    def _applied(self, account_id: AccountId) -> tuple[AccountView, Freshness]:
        account = self.get(account_id)
        return account, self._cache.await_applied(account.position)
