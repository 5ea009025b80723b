"""Accounts, as the operator manages them."""

from collections.abc import Sequence

from application.ledger import Ledger
from application.ports import Accounts, AccountView, Entropy, Freshness, KeyCache
from domain.access import Plan
from domain.account import Account
from domain.errors import NotFoundError
from domain.events import Origin
from domain.ids import AccountId
from domain.naming import Name

UNKNOWN_ACCOUNT = "No such account"


class AccountManagement:
    """Opens accounts, and suspends them with all their keys."""

    def __init__(self, *, ledger: Ledger, accounts: Accounts, cache: KeyCache, entropy: Entropy) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._cache = cache
        self._entropy = entropy

    def open(self, *, name: Name, email: str, plan: Plan, by: Origin) -> AccountView:
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

    def suspend(self, *, account_id: AccountId, by: Origin) -> tuple[AccountView, Freshness]:
        """Refuses all keys of an account; no process accepts one when it returns."""
        self._ledger.change(Account, account_id, lambda account: account.suspend(by=by))
        return self._applied(account_id)

    def reinstate(self, *, account_id: AccountId, by: Origin) -> tuple[AccountView, Freshness]:
        """Accepts a suspended account's keys again."""
        self._ledger.change(Account, account_id, lambda account: account.reinstate(by=by))
        return self._applied(account_id)

    def _applied(self, account_id: AccountId) -> tuple[AccountView, Freshness]:
        account = self.get(account_id)
        return account, self._cache.await_applied(account.position)
