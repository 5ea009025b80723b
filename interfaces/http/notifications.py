"""``/api/notifications``: where the account's notices go and which are sent; and the pages that mails lead to.

The pages ask for no login. A link that turns notices off acts on POST alone (RFC 8058): programs that follow every link
of a mail only look.
"""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter, SkipValidation
from msgspec import UNSET, Meta, UnsetType

from application.accounts import AccountManagement, NoticeChange
from application.authentication import Need
from application.notice_links import ACTOR, NoticeLinks
from application.ports import Clock
from domain.access import Scope
from domain.errors import InvalidError, NotFoundError
from domain.events import Origin
from domain.ids import AccountId, KeyId, MalformedIdError, WebhookEndpointId
from domain.mail_address import MailAddress
from domain.notices import MUTABLE, NoticeKind
from interfaces.http.caller import By, Caller, parsed
from interfaces.http.notice_bodies import NotificationsBody
from interfaces.http.page import code, escaped, page
from interfaces.http.request import record_of
from interfaces.http.schema import ERRORS

Accounts = NamedDependency[AccountManagement]
Links = NamedDependency[NoticeLinks]
GivenClock = NamedDependency[SkipValidation[Clock]]
# An address is a personal matter: who may only list keys does not see it.
NEED = {"need": Need(Scope.parse("keys:write"))}
Token = Annotated[str, QueryParameter(max_length=512)]


class ChangeNotifications(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; an absent field, and a kind that is not named, stays."""

    email: Annotated[str, Meta(description="null is the account's own address.")] | UnsetType | None = UNSET
    notices: Annotated[dict[str, bool], Meta(examples=[{"rotation_reminder": False}])] | UnsetType = UNSET


@get("/", opt=NEED, responses=ERRORS, sync_to_thread=True, summary="Get notification preferences")
def get_notifications(caller: Caller, account_management: Accounts) -> NotificationsBody:
    """Where notices by e-mail go, and which are sent."""
    return NotificationsBody.of(account_management.get(caller.account_id))


@patch("/", opt=NEED, responses=ERRORS, sync_to_thread=True, summary="Change notification preferences")
def change_notifications(
    data: JSONBody[ChangeNotifications], caller: Caller, origin: By, account_management: Accounts
) -> NotificationsBody:
    """Changes where notices go and which are sent; the former address is told when they move or security stops."""
    notices = {} if data.notices is UNSET else {_kind(name): is_sent for name, is_sent in data.notices.items()}
    change = NoticeChange(
        email=...
        if data.email is UNSET
        else None
        if data.email is None
        else parsed("email", MailAddress.parse, data.email),
        mute=frozenset(kind for kind, is_sent in notices.items() if not is_sent),
        unmute=frozenset(kind for kind, is_sent in notices.items() if is_sent),
    )
    account = account_management.change_notices(account_id=caller.account_id, change=change, by=origin)
    return NotificationsBody.of(account)


def _kind(name: str) -> NoticeKind:
    for kind in MUTABLE:
        if kind.value == name:
            return kind
    raise InvalidError.of("notices", f"must name some of: {', '.join(MUTABLE)}")


@get("/notifications/mute", include_in_schema=False, sync_to_thread=True)
def ask_to_mute(token: Token, notice_links: Links) -> Response[str]:
    """Asks whether that kind of notice is to stop; changes nothing."""
    linked = notice_links.look(token)
    what = _words(linked.kind)
    if linked.is_muted:
        return _muted(linked.account_id, linked.kind)
    return page(
        f"Stop notices of this kind: {what}?",
        f"<p>Mails about “{what}” go to the owner of {escaped(linked.account_id)}. Other notices are not touched.</p>"
        # Without an address of its own the form goes to this page's, token included.
        '<form method="post"><button name="List-Unsubscribe" value="One-Click">Stop them</button></form>',
    )


@post("/notifications/mute", include_in_schema=False, status_code=200, sync_to_thread=True)
def mute(token: Token, request: Request[Any, Any, Any], notice_links: Links, clock: GivenClock) -> Response[str]:
    """Turns that kind of notice off; again changes nothing."""
    linked = notice_links.mute(token, by=Origin(ACTOR, record_of(request.scope).request_id, clock.now()))
    return _muted(linked.account_id, linked.kind)


@get("/next/{thing_id:str}", include_in_schema=False, sync_to_thread=False)
def what_next(thing_id: FromPath[str]) -> Response[str]:
    """What can be done with the thing that a mail was about; the same whether it exists or not."""
    for kind, render in ((KeyId, _key_page), (WebhookEndpointId, _webhook_page), (AccountId, _account_page)):
        try:
            return render(kind.parse(thing_id))
        except MalformedIdError:
            continue
    raise NotFoundError("No such path")


def _key_page(key_id: str) -> Response[str]:
    return page(
        f"API key {key_id}",
        "<p>At the command line of the service:</p>"
        + code(
            f"keyledger key show {key_id}",
            f"keyledger logs --key {key_id}",
            f"keyledger key rotate {key_id} --grace-starts first_use",
            f"keyledger key revoke {key_id} --reason compromised",
        )
        + "<p>Over HTTP, with a key of the account that may manage keys:</p>"
        + code(f"GET /api/keys/{key_id}", f"POST /api/keys/{key_id}/rotate", f"POST /api/keys/{key_id}/revoke"),
    )


def _webhook_page(webhook_id: str) -> Response[str]:
    return page(
        f"Webhook {webhook_id}",
        "<p>At the command line of the service:</p>"
        + code(
            f"keyledger webhook show {webhook_id}",
            f"keyledger webhook deliveries {webhook_id}",
            f"keyledger webhook change {webhook_id} --status enabled",
        )
        + "<p>Over HTTP, with a key of the account that may manage webhooks:</p>"
        + code(f"GET /api/webhooks/{webhook_id}", f"GET /api/webhooks/{webhook_id}/deliveries"),
    )


def _account_page(account_id: str) -> Response[str]:
    return page(
        f"Notices of account {account_id}",
        "<p>At the command line of the service:</p>"
        + code(f"keyledger account notifications {account_id}")
        + "<p>Over HTTP, with a key of the account that may manage keys:</p>"
        + code("GET /api/notifications", "PATCH /api/notifications"),
    )


def _muted(account_id: AccountId, kind: NoticeKind) -> Response[str]:
    again = code(
        f"keyledger account notifications {account_id} --unmute {kind.value}",
        f'PATCH /api/notifications {{"notices": {{"{kind.value}": true}}}}',
    )
    return page(f"No more notices of this kind: {_words(kind)}", f"<p>To have them again:</p>{again}")


def _words(kind: NoticeKind) -> str:
    return kind.value.replace("_", " ")


def notifications_router() -> Router:
    """The routes of this module that need a key."""
    return Router(
        "/api/notifications", route_handlers=[get_notifications, change_notifications], tags=["Notifications"]
    )


def notice_pages_router() -> Router:
    """The pages."""
    return Router("/", route_handlers=[ask_to_mute, mute, what_next])
