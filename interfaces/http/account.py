"""``/api/account``: what holds for all keys of the caller's account."""

from typing import Self

import msgspec
from litestar import Router, get, patch
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import UNSET, UnsetType

from application.accounts import AccountManagement
from application.authentication import Need
from application.ports import AccountView
from application.webhooks import WebhookManagement
from domain.access import Feature, Scope
from domain.errors import ForbiddenError
from domain.ids import WebhookEndpointId
from interfaces.http.caller import By, Caller, parsed
from interfaces.http.key_bodies import Days
from interfaces.http.schema import ERRORS

Accounts = NamedDependency[AccountManagement]
READ = {"need": Need(scope=Scope.parse("keys:read"))}
WRITE = {"need": Need(scope=Scope.parse("keys:write"))}


class ChangeAccount(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; an absent field stays."""

    rotation_due_days: Days | UnsetType = UNSET
    hand_over_to: str | UnsetType | None = UNSET


class OwnAccountBody(msgspec.Struct):
    """The caller's account. ``rotation_due_days``: the age at which new keys are to be rotated.

    ``hand_over_to``: the webhook that gets the successor of each key that falls due, with its secret; null, also once
    that webhook is deleted: none does.
    """

    id: str
    name: str
    plan: str
    rotation_due_days: int
    hand_over_to: str | None

    @classmethod
    def of(cls, account: AccountView) -> Self:
        """The body of an account."""
        return cls(account.account_id, account.name, account.plan, account.rotation_due_days, account.hand_over_to)


@get("/", opt=READ, responses=ERRORS, sync_to_thread=True, summary="Get the account")
def get_account(caller: Caller, account_management: Accounts) -> OwnAccountBody:
    """The caller's account."""
    return OwnAccountBody.of(account_management.get(caller.account_id))


@patch("/", opt=WRITE, responses=ERRORS, sync_to_thread=True, summary="Change the account")
def change_account(
    data: JSONBody[ChangeAccount],
    caller: Caller,
    origin: By,
    account_management: Accounts,
    webhook_management: NamedDependency[WebhookManagement],
) -> OwnAccountBody:
    """`rotation_due_days` holds for new keys; keys that exist keep theirs. `hand_over_to` holds for all."""
    account_id = caller.account_id
    if data.hand_over_to is not UNSET:
        handover = None
        if data.hand_over_to is not None:
            if not caller.plan.includes(Feature.WEBHOOKS):
                raise ForbiddenError
            endpoint_id = parsed("hand_over_to", WebhookEndpointId.parse, data.hand_over_to)
            handover = webhook_management.receiver(account_id=account_id, endpoint_id=endpoint_id)
        account_management.hand_over_to(account_id=account_id, handover=handover, by=origin)
    if data.rotation_due_days is not UNSET:
        account_management.rotate_after(account_id=account_id, days=data.rotation_due_days, by=origin)
    return OwnAccountBody.of(account_management.get(account_id))


def account_router() -> Router:
    """The routes of this module."""
    return Router("/api/account", route_handlers=[get_account, change_account], tags=["Account"])
