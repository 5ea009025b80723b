"""What an account's owner is told by mail, and what of it can be turned off.

Security notices are turned off by the owner's key or by the operator alone: a link in a mail, which whoever reads or
forwards it can press, does not reach them. ``notices_changed`` cannot be turned off: it tells the former address that
notices go elsewhere now, or that security notices have stopped.
"""

from enum import StrEnum


class NoticeKind(StrEnum):
    """One kind of notice; the names are part of the API."""

    KEY_CREATED = "key_created"
    ROTATION_DUE = "rotation_due"
    ROTATION_REMINDER = "rotation_reminder"
    RETIRING_SOON = "retiring_soon"
    RETIRED = "retired"
    EXPIRING = "expiring"
    REVOKED = "revoked"
    COMPROMISED = "compromised"
    ATTACKED = "attacked"
    PRESENTED_AFTER_END = "presented_after_end"
    WEBHOOK_DISABLED = "webhook_disabled"
    NOTICES_CHANGED = "notices_changed"


ALWAYS = frozenset({NoticeKind.NOTICES_CHANGED})
SECURITY = frozenset({NoticeKind.COMPROMISED, NoticeKind.ATTACKED, NoticeKind.PRESENTED_AFTER_END})
MUTABLE = tuple(kind for kind in NoticeKind if kind not in ALWAYS)
"""What the owner may turn off, in the order in which it is listed."""
ONE_CLICK = frozenset(MUTABLE) - SECURITY
"""What a link in the mail itself turns off."""
