"""A notice: one thing that happened, as its owner is told of it; made of an event, kept with the delivery."""

from dataclasses import dataclass, field
from datetime import datetime

from domain.notices import NoticeKind


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened, when, and by whom.

    ``thing_id`` is the key's or the webhook's id (the account's where it is about the account itself), ``name`` and
    ``prefix`` what people know it by, as of then; an ended key's prefix is still that. ``details`` are the kind's own:
    see ``application.notice_words``, which words each.
    """

    kind: NoticeKind
    account_id: str
    at: datetime
    actor: str
    thing_id: str
    name: str
    prefix: str = ""
    details: dict[str, str] = field(default_factory=dict[str, str])
