"""An account: who owns keys, what its plan includes, where its notices go. ``open ⇄ suspended``."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self

from domain.access import Plan
from domain.events import Aggregate, Event, FirstEvent, Origin
from domain.ids import AccountId, WebhookEndpointId
from domain.mail_address import MailAddress
from domain.naming import Name
from domain.notices import MUTABLE, SECURITY, NoticeKind

ROTATION_DUE_DAYS = 90
ROTATION_DUE_DAYS_MAX = 3650


@dataclass(frozen=True)
class Opened(FirstEvent):
    """An account came to be. ``email`` receives its notices."""

    TOPIC: ClassVar[str] = "account.opened"

    name: str
    email: str
    plan: str


@dataclass(frozen=True)
class PlanChanged(Event):
    """The account's plan changed."""

    TOPIC: ClassVar[str] = "account.plan_changed"

    plan: str

    def apply(self, aggregate: "Account") -> None:
        """Takes the new plan."""
        aggregate.plan = Plan(self.plan)


@dataclass(frozen=True)
class RotationDueDaysChanged(Event):
    """The account's new keys are to be rotated after that many days."""

    TOPIC: ClassVar[str] = "account.rotation_due_days_changed"

    rotation_due_days: int

    def apply(self, aggregate: "Account") -> None:
        """Takes the new age."""
        aggregate.rotation_due_days = self.rotation_due_days


@dataclass(frozen=True)
class Suspended(Event):
    """All keys of the account are refused from now on."""

    TOPIC: ClassVar[str] = "account.suspended"

    def apply(self, aggregate: "Account") -> None:
        """Stops the account."""
        aggregate.suspended = True


@dataclass(frozen=True)
class Reinstated(Event):
    """The account's keys are accepted again."""

    TOPIC: ClassVar[str] = "account.reinstated"

    def apply(self, aggregate: "Account") -> None:
        """Lets the account run, and remembers since when."""
        aggregate.suspended = False
        aggregate.reinstated_at = self.timestamp


@dataclass(frozen=True)
class NoticesChanged(Event):
    """Notices go to ``email`` from now on (None: the account's own), and those of the kinds ``muted`` are not sent.

    ``former_email`` is where they went until now; ``silenced`` are the security notices among those newly muted.
    """

    TOPIC: ClassVar[str] = "account.notices_changed"

    email: str | None
    muted: tuple[str, ...]
    former_email: str
    silenced: tuple[str, ...]

    def apply(self, aggregate: "Account") -> None:
        """Takes the new preferences."""
        aggregate.notice_email = None if self.email is None else MailAddress(self.email)
        # A kind that this release does not know is a newer one's.
        aggregate.muted = frozenset(kind for kind in MUTABLE if kind in self.muted)


@dataclass(frozen=True)
class HandoverChanged(Event):
    """Successors of keys that fall due are made without being asked for, and handed over to that webhook.

    ``endpoint_id`` None: no more. ``url`` is where the endpoint was then: at another one it is handed over nothing.
    """

    TOPIC: ClassVar[str] = "account.handover_changed"

    endpoint_id: str | None
    url: str | None

    def apply(self, aggregate: "Account") -> None:
        """Takes the receiver."""
        if self.endpoint_id is None or self.url is None:
            aggregate.handover = None
        else:
            aggregate.handover = Handover(WebhookEndpointId(self.endpoint_id), self.url)


@dataclass(frozen=True, slots=True)
class Handover:
    """Who is handed over successors: a webhook endpoint, as long as it is where it was."""

    endpoint_id: WebhookEndpointId
    url: str


class Account(Aggregate, topic="account"):
    """One customer."""

    def __init__(self, *, account_id: str, name: str, email: str, plan: str) -> None:
        self.account_id = AccountId(account_id)
        self.name = Name(name)
        self.email = email
        self.plan = Plan(plan)
        self.rotation_due_days = ROTATION_DUE_DAYS
        self.suspended = False
        self.reinstated_at: datetime | None = None
        self.notice_email: MailAddress | None = None
        self.muted: frozenset[NoticeKind] = frozenset()
        self.handover: Handover | None = None

    @classmethod
    def open(cls, account_id: AccountId, *, by: Origin, name: Name, email: str, plan: Plan) -> Self:
        """A new account."""
        return cls.begin(
            Opened, aggregate_id=account_id, by=by, account_id=account_id, name=name, email=email, plan=plan.value
        )

    def change_plan(self, plan: Plan, *, by: Origin) -> None:
        """Moves the account to another plan; the same plan records nothing."""
        if plan is not self.plan:
            self.record(PlanChanged, by=by, plan=plan.value)

    def rotate_after(self, days: int, *, by: Origin) -> None:
        """Sets the age at which the account's new keys are to be rotated; the same age records nothing."""
        if days != self.rotation_due_days:
            self.record(RotationDueDaysChanged, by=by, rotation_due_days=days)

    def hand_over_to(self, handover: Handover | None, *, by: Origin) -> None:
        """Sets who is handed over the successors of keys that fall due; None: nobody. The same records nothing."""
        if handover != self.handover:
            endpoint_id = None if handover is None else handover.endpoint_id
            self.record(HandoverChanged, by=by, endpoint_id=endpoint_id, url=None if handover is None else handover.url)

    def suspend(self, *, by: Origin) -> None:
        """Refuses all keys of the account; again records nothing."""
        if not self.suspended:
            self.record(Suspended, by=by)

    def reinstate(self, *, by: Origin) -> None:
        """Accepts the account's keys again; again records nothing."""
        if self.suspended:
            self.record(Reinstated, by=by)

    @property
    def notices_go_to(self) -> str:
        """The address of its notices."""
        return self.notice_email or self.email

    def change_notices(self, *, email: MailAddress | None, muted: Iterable[NoticeKind], by: Origin) -> None:
        """Sets where notices go (None: the account's own address) and which are not sent; the same records nothing.

        Of ``muted`` only what can be muted counts.
        """
        wanted = frozenset(muted) & frozenset(MUTABLE)
        if (email, wanted) != (self.notice_email, self.muted):
            self.record(
                NoticesChanged,
                by=by,
                email=email,
                muted=tuple(kind.value for kind in MUTABLE if kind in wanted),
                former_email=self.notices_go_to,
                silenced=tuple(kind.value for kind in MUTABLE if kind in (wanted & SECURITY) - self.muted),
            )
