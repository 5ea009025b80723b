"""An account's notices as the HTTP API and the command line show them."""

from typing import Self

import msgspec

from application.ports import AccountView
from domain.notices import MUTABLE


class NotificationsBody(msgspec.Struct):
    """Where notices go, and which are sent. ``email`` null: to the account's own address; ``sent_to`` is either."""

    email: str | None
    sent_to: str
    notices: dict[str, bool]

    @classmethod
    def of(cls, account: AccountView) -> Self:
        """The body of an account's preferences."""
        return cls(
            email=account.notice_email,
            sent_to=account.notices_go_to,
            notices={kind.value: kind not in account.muted for kind in MUTABLE},
        )
