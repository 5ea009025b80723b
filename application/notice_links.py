"""The link in a mail that turns notices of its kind off: no login, one account, one kind, one address.

It holds for as long as notices go to the address that it was sent to, and its secret is in the ring: who has the mail
has the link, and can stop that kind of notice and nothing else. Security notices have none.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from application.accounts import AccountManagement, NoticeChange
from application.ports import Accounts
from domain.errors import NotFoundError
from domain.events import Origin
from domain.ids import AccountId
from domain.notices import ONE_CLICK, NoticeKind

ACTOR = "mail:link"
"""Who acts when somebody follows a link: whoever holds the mail."""
NO_SUCH_LINK = "This link is not valid any more"
_FINGERPRINT_CHARACTERS = 16


class LinkSeals(Protocol):
    """Opaque, authenticated text for links, under a subkey of its own."""

    def seal_link(self, payload: bytes) -> str:
        """Text for a URL."""
        ...

    def open_link(self, text: str) -> bytes | None:
        """The payload; None for anything that this service did not seal as a link."""
        ...


@dataclass(frozen=True, slots=True)
class LinkedNotice:
    """What a link is about, and whether that is turned off already."""

    account_id: AccountId
    kind: NoticeKind
    is_muted: bool


def mute_token(seals: LinkSeals, *, account_id: AccountId, kind: NoticeKind, address: str) -> str | None:
    """What the link in a mail to that address holds; None for a kind that no link turns off."""
    if kind not in ONE_CLICK:
        return None
    return seals.seal_link(f"{account_id} {kind.value} {_fingerprint(address)}".encode())


class NoticeLinks:
    """Does what a link says. One that holds no longer, or never did, is a NotFoundError."""

    def __init__(self, *, seals: LinkSeals, accounts: Accounts, management: AccountManagement) -> None:
        self._seals = seals
        self._accounts = accounts
        self._management = management

    def look(self, token: str) -> LinkedNotice:
        """What the link is about; changes nothing."""
        payload = self._seals.open_link(token)
        account_id, kind, fingerprint = ("", "", "") if payload is None else payload.decode().split(" ")
        account = self._accounts.find(AccountId(account_id))
        known = {each.value: each for each in ONE_CLICK}
        if account is None or kind not in known or _fingerprint(account.notices_go_to) != fingerprint:
            raise NotFoundError(NO_SUCH_LINK)
        return LinkedNotice(account.account_id, known[kind], known[kind] in account.muted)

    def mute(self, token: str, *, by: Origin) -> LinkedNotice:
        """Turns that kind of notice off; again changes nothing."""
        linked = self.look(token)
        change = NoticeChange(mute=frozenset({linked.kind}))
        self._management.change_notices(account_id=linked.account_id, change=change, by=by)
        return linked


def _fingerprint(address: str) -> str:
    # Only the addressee sees it, and it is sealed: it has to differ, not to hide.
    return hashlib.sha256(address.encode()).hexdigest()[:_FINGERPRINT_CHARACTERS]
