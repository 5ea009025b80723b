"""Notices by mail: what an event tells the account's owner, and each message brought to the post office.

An event becomes a notice when it happens, by the preferences of that moment; what is muted after it is not sent either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from application.mail import Mail, Posting, PostOffice
from application.mail_layout import Links, as_html, as_text
from application.notice_links import LinkSeals, mute_token
from application.notice_words import words_of
from application.notices import Notice
from application.outbox import Cancelled, Delivered, Failed, Message, Outcome
from application.ports import Accounts, AccountView
from domain import api_key_events, rotation_events, webhook_endpoint
from domain.account import NoticesChanged
from domain.api_key import RevocationReason
from domain.events import Event
from domain.mail_address import MailAddress
from domain.notices import NoticeKind
from domain.webhook_endpoint import DisabledReason

RETRIES: Final = (
    timedelta(seconds=10),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=3),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(hours=24),
    timedelta(hours=24),
)
"""Three days in all: a relay that is away over a weekend loses nothing."""

_DISABLED: Final = {
    DisabledReason.GONE.value: "its receiver said that it is gone (410)",
    DisabledReason.FAILING.value: "the last retry of a delivery failed",
}
_RETIRED_BY_ROTATION = frozenset({"grace_over", "silent", "at_once"})
_ROTATING_ACTORS = frozenset({"system:retirement", "system:workflow"})


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What people know a key by, whether it has a successor, and whether somebody cancelled the rotation to that."""

    name: str
    prefix: str
    is_replaced: bool = False
    is_rotation_cancelled: bool = False


FindKey = Callable[[str], KnownKey | None]


def notice_of(event: Event, *, find_key: FindKey) -> Notice | None:
    """What the event tells its account's owner; None for what is not told."""
    told = _told(event)
    if told is None or event.account_id is None or _is_told_by_rotation(event, find_key):
        return None
    kind, details = told
    thing_id = event.originator_id
    known = KnownKey("", "")
    match event:
        case rotation_events.HandedOver():
            thing_id = str(event.successor_id)
            known = find_key(thing_id) or known
        case rotation_events.RotationEvent():
            thing_id, known = event.key_id, KnownKey(event.name, event.prefix)
        case api_key_events.Created():
            known = KnownKey(event.name, event.prefix)
        case webhook_endpoint.Disabled():
            known = KnownKey(_without_query(event.url), "")
        case NoticesChanged():
            pass
        case _:
            known = find_key(thing_id) or known
    return Notice(
        kind=kind,
        account_id=str(event.account_id),
        at=event.timestamp,
        actor=event.actor,
        thing_id=thing_id,
        name=known.name,
        prefix=known.prefix,
        details={name: _text(value) for name, value in details.items() if value is not None},
    )


def _is_told_by_rotation(event: Event, find_key: FindKey) -> bool:
    """Whether the end of the key is told by its rotation; anybody may give that reason for a key that has none.

    One that was cancelled tells nothing.
    """
    if not isinstance(event, api_key_events.Revoked) or event.reason != RevocationReason.ROTATED:
        return False
    key = find_key(event.originator_id) or KnownKey("", "")
    return not key.is_rotation_cancelled and (key.is_replaced or event.actor in _ROTATING_ACTORS)


def _told(event: Event) -> tuple[NoticeKind, dict[str, Any]] | None:  # noqa: C901, PLR0911, PLR0912 - one case an event
    match event:
        case api_key_events.Created() | api_key_events.Revoked() if event.actor == rotation_events.HANDOVER_ACTOR:
            return None
        case rotation_events.HandedOver():
            return NoticeKind.KEY_CREATED, {"replaces": event.key_id}
        case api_key_events.Created():
            return NoticeKind.KEY_CREATED, {"expires_at": event.expires_at, "replaces": event.replaces}
        case rotation_events.Notified():
            return NoticeKind.ROTATION_DUE, {"due_at": event.due_at}
        case rotation_events.Reminded():
            return NoticeKind.ROTATION_REMINDER, {"due_at": event.due_at, "days": event.day}
        case rotation_events.RetiringSoon():
            return NoticeKind.RETIRING_SOON, {
                "retires_at": event.retires_at,
                "successor_id": event.successor_id,
                "last_used_at": event.last_used_at,
                "successor_used": event.successor_used,
            }
        case rotation_events.Retired() if event.reason in _RETIRED_BY_ROTATION:
            return NoticeKind.RETIRED, {"successor_id": event.successor_id}
        case api_key_events.Expiring():
            return NoticeKind.EXPIRING, {"expires_at": event.expires_at}
        case api_key_events.Revoked() if event.reason == RevocationReason.COMPROMISED:
            return NoticeKind.COMPROMISED, {"note": event.note}
        case api_key_events.Revoked():
            return NoticeKind.REVOKED, {"reason": event.reason, "note": event.note}
        case api_key_events.Attacked():
            since, until = event.since, event.until
            return NoticeKind.ATTACKED, {"failed_attempts": event.failed_attempts, "since": since, "until": until}
        case api_key_events.PresentedAfterEnd():
            return NoticeKind.PRESENTED_AFTER_END, {"attempts": event.attempts, "last_at": event.last_at}
        case webhook_endpoint.Disabled() if event.reason != DisabledReason.OWNER:
            return NoticeKind.WEBHOOK_DISABLED, {"reason": _DISABLED.get(event.reason, event.reason)}
        case NoticesChanged():
            return NoticeKind.NOTICES_CHANGED, {"email": event.email, "silenced": ", ".join(event.silenced) or None}
        case _:
            return None


TOPICS: Final = frozenset(
    {
        NoticesChanged.TOPIC,
        api_key_events.Attacked.TOPIC,
        api_key_events.Created.TOPIC,
        api_key_events.Expiring.TOPIC,
        api_key_events.PresentedAfterEnd.TOPIC,
        api_key_events.Revoked.TOPIC,
        rotation_events.HandedOver.TOPIC,
        rotation_events.Notified.TOPIC,
        rotation_events.Reminded.TOPIC,
        rotation_events.Retired.TOPIC,
        rotation_events.RetiringSoon.TOPIC,
        webhook_endpoint.Disabled.TOPIC,
    }
)
"""The events that `notice_of` may tell."""


def address_of(event: Event, account: AccountView) -> str | None:
    """Where the event's notice goes; None when the former address has nothing to learn from a change of notices."""
    if not isinstance(event, NoticesChanged):
        return account.notices_go_to
    has_moved = event.former_email != (event.email or account.email)
    return event.former_email if has_moved or event.silenced else None


def _without_query(url: str) -> str:
    # What a receiver lets itself be known by may stand there.
    return url.partition("?")[0].partition("#")[0]


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


class NoticeCarrier:
    """The port `Carrier` of the outbox: each notice is one mail, the same at every attempt."""

    retries = RETRIES

    def __init__(self, *, post_office: PostOffice, accounts: Accounts, seals: LinkSeals, public_url: str) -> None:
        self._post_office = post_office
        self._accounts = accounts
        self._seals = seals
        self._public_url = public_url

    def deliver(self, message: Message) -> Outcome:
        """Hands the mail over, unless its kind was turned off since."""
        notice = msgspec.convert(message.payload, Notice)
        account = self._accounts.find(message.account_id)
        if account is None or notice.kind in account.muted:
            return Cancelled("notices of this kind are turned off")
        try:
            address = MailAddress.parse(message.target)
        except ValueError as error:
            return Failed(f"the account's address {error}", permanent=True)
        posted = self._post_office.post(self._mail(message, notice, address))
        if posted.posting is Posting.ACCEPTED:
            return Delivered(posted.code)
        return Failed(posted.said, status=posted.code, permanent=posted.posting is Posting.NEVER)

    def give_up(self, message: Message, failure: Failed) -> None:
        """Nothing more to do: the failure is on record."""

    def interrupt(self) -> None:
        """Ends what is under way."""
        self._post_office.interrupt()

    def _mail(self, message: Message, notice: Notice, address: MailAddress) -> Mail:
        token = mute_token(self._seals, account_id=message.account_id, kind=notice.kind, address=address)
        mute_url = None if token is None else f"{self._public_url}/notifications/mute?token={token}"
        words = words_of(notice)
        links = Links(f"{self._public_url}/next/{notice.thing_id}", mute_url)
        return Mail(
            id=message.id,
            to=address,
            subject=words.subject,
            text=as_text(words, links),
            html=as_html(words, links),
            at=message.created_at,
            list_id=notice.kind.replace("_", "-"),
            mute_url=mute_url,
        )
