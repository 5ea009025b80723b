"""Builders of notices and mails."""

from datetime import timedelta
from typing import Any

from application.mail import Mail, Sender
from application.notices import Notice
from domain.mail_address import MailAddress
from domain.notices import NoticeKind
from tests.kit.builders import NOON, account_id, key_id

SENDER = Sender(MailAddress("keyledger@acme.example"), "Keyledger")
DETAILS = {
    "attempts": "3",
    "days": "14",
    "due_at": NOON.isoformat(),
    "email": "new@acme.example",
    "expires_at": (NOON + timedelta(days=7)).isoformat(),
    "failed_attempts": "60",
    "last_at": NOON.isoformat(),
    "last_used_at": NOON.isoformat(),
    "note": "seen in a build log",
    "reason": "other",
    "retires_at": (NOON + timedelta(days=1)).isoformat(),
    "silenced": "attacked",
    "since": NOON.isoformat(),
    "successor_id": key_id(2),
    "until": NOON.isoformat(),
}
"""Something for every detail that some notice shows."""


def a_notice(kind: NoticeKind = NoticeKind.ROTATION_DUE, **values: Any) -> Notice:
    """A notice about a key."""
    defaults: dict[str, Any] = {
        "account_id": account_id(),
        "at": NOON,
        "actor": "system:rotation",
        "thing_id": key_id(1),
        "name": "Production API",
        "prefix": "sk_live_000000001",
        "details": dict(DETAILS),
    }
    return Notice(kind, **(defaults | values))


def a_mail(number: int = 1, **values: Any) -> Mail:
    """A mail."""
    defaults: dict[str, Any] = {
        "id": f"notice.{number}",
        "to": MailAddress("owner@example.com"),
        "subject": "Time to rotate",
        "text": "It is due.\n.\nA line that begins with a dot follows.\n.so\n",
        "html": "<p>It is due.</p>\n",
        "at": NOON,
        "list_id": "rotation-due",
    }
    return Mail(**(defaults | values))
