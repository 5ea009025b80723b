"""The facts of one rotation, in order. Each names the key as a notice must, and so stands for itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import EllipsisType
from typing import TYPE_CHECKING, ClassVar

from domain.events import FirstEvent
from domain.ids import KeyId
from domain.workflow import StepTaken

if TYPE_CHECKING:
    from domain.rotation import Rotation

HANDOVER_ACTOR = "system:successor"
"""Who makes and replaces successors that nobody asked for: the owner is told of the one that arrived."""


class Step(StrEnum):
    """Where a rotation stands."""

    DUE = "due"
    PAUSED = "paused"
    POSTPONED = "postponed"
    HANDOVER = "handover"
    OVERLAP = "overlap"
    CLOSED = "closed"


FIRST_REMINDERS = (7, 14, 30)
REMINDER_EVERY_DAYS = 30


def newest_reminder(since_due: timedelta) -> int:
    """The day of the newest reminder that has come by then; 0 before the first."""
    days = since_due.days
    return max((day for day in (*FIRST_REMINDERS, days - days % REMINDER_EVERY_DAYS) if day <= days), default=0)


@dataclass(frozen=True)
class RotationEvent(StepTaken):
    """What all of them say: the key, the ``step`` that the rotation is in from now on, and its dates.

    ``due_at``: when the key was to be rotated. ``retires_at``: when it is to be refused; None while that is open.
    ``successor_id``: the key that replaces it; None before there is one.
    """

    key_id: str
    name: str
    prefix: str
    environment: str
    lineage_id: str
    successor_id: str | None
    due_at: datetime
    retires_at: datetime | None

    @property
    def subject(self) -> str:
        """The key that is rotated."""
        return self.key_id

    def apply(self, aggregate: "Rotation") -> None:
        """Takes the step and the dates."""
        super().apply(aggregate)
        aggregate.due_at = self.due_at
        aggregate.successor_id = None if self.successor_id is None else KeyId(self.successor_id)
        aggregate.retires_at = self.retires_at


@dataclass(frozen=True)
class Began(FirstEvent, RotationEvent):
    """A rotation began: ``reason`` is ``due``, or ``rotated`` when somebody did not wait for that."""

    TOPIC: ClassVar[str] = "rotation.began"

    reason: str


@dataclass(frozen=True)
class Notified(RotationEvent):
    """The owner is to be told that the key is due; reminders of days before this are told with it."""

    TOPIC: ClassVar[str] = "rotation.notified"

    def apply(self, aggregate: "Rotation") -> None:
        """Remembers which due date the owner knows of."""
        super().apply(aggregate)
        aggregate.notified_for = self.due_at
        aggregate.reminded_day = newest_reminder(self.timestamp - self.due_at)


@dataclass(frozen=True)
class Reminded(RotationEvent):
    """The owner is to be told again, ``day`` days after the due date: 7, 14, 30, 60, 90 and so on.

    A service that was away over several of them reminds once, with the newest.
    """

    TOPIC: ClassVar[str] = "rotation.reminded"

    day: int

    def apply(self, aggregate: "Rotation") -> None:
        """Remembers the day."""
        super().apply(aggregate)
        aggregate.reminded_day = self.day


@dataclass(frozen=True)
class Paused(RotationEvent):
    """The key was disabled: nobody is reminded of it."""

    TOPIC: ClassVar[str] = "rotation.paused"

    def apply(self, aggregate: "Rotation") -> None:
        """Forgets a hand-over: it begins anew once the key is enabled."""
        super().apply(aggregate)
        aggregate.handover_at = aggregate.handover_to = None


@dataclass(frozen=True)
class Continued(RotationEvent):
    """The key was enabled again, or is due again on the day that its owner was told of before it was put off."""

    TOPIC: ClassVar[str] = "rotation.continued"


@dataclass(frozen=True)
class Postponed(RotationEvent):
    """The key is due later than was said, at ``due_at``."""

    TOPIC: ClassVar[str] = "rotation.postponed"

    def apply(self, aggregate: "Rotation") -> None:
        """Forgets a hand-over: that day has one of its own."""
        super().apply(aggregate)
        aggregate.handover_at = aggregate.handover_to = None


@dataclass(frozen=True)
class HandoverBegan(RotationEvent):
    """The owner wants successors handed over to a webhook: one is to be made, and nobody is told yet."""

    TOPIC: ClassVar[str] = "rotation.handover_began"

    endpoint_id: str

    def apply(self, aggregate: "Rotation") -> None:
        """Asks for the first attempt, at once."""
        super().apply(aggregate)
        aggregate.handover_at = self.timestamp
        aggregate.handover_attempts = 0
        aggregate.offered_id = None
        aggregate.has_given_up = False
        aggregate.handover_to = self.endpoint_id


@dataclass(frozen=True)
class SuccessorOffered(RotationEvent):
    """A successor was made, in the transaction of this, and is about to be handed over.

    Nobody may live to tell what became of the ``attempt``: at ``lost_at`` it counts as lost.
    """

    TOPIC: ClassVar[str] = "rotation.successor_offered"

    endpoint_id: str
    attempt: int
    lost_at: datetime

    @property
    def awaits(self) -> str | None:
        """The successor: once it is used, somebody has it."""
        return self.successor_id

    def apply(self, aggregate: "Rotation") -> None:
        """Counts the attempt."""
        super().apply(aggregate)
        aggregate.offered_id = aggregate.successor_id
        aggregate.handover_attempts = self.attempt
        aggregate.handover_at = self.lost_at
        aggregate.is_offering = True


@dataclass(frozen=True)
class HandoverFailed(RotationEvent):
    """The receiver did not take it; ``error`` says why, in words that hold no secret.

    ``retry_at`` None: there is no other attempt, and the rotation goes on by hand.
    """

    TOPIC: ClassVar[str] = "rotation.handover_failed"

    endpoint_id: str
    attempt: int
    error: str
    retry_at: datetime | None

    @property
    def awaits(self) -> EllipsisType | None:
        """As before while there is another attempt, then nothing any more: what was offered last came to nobody."""
        return None if self.retry_at is None else ...

    def apply(self, aggregate: "Rotation") -> None:
        """Takes the next attempt, or gives up."""
        super().apply(aggregate)
        aggregate.handover_at = self.retry_at
        aggregate.is_offering = False
        aggregate.has_given_up = self.retry_at is None


@dataclass(frozen=True)
class HandedOver(RotationEvent):
    """The receiver took the successor."""

    TOPIC: ClassVar[str] = "rotation.handed_over"

    endpoint_id: str
    attempt: int

    def apply(self, aggregate: "Rotation") -> None:
        """Ends the attempts."""
        super().apply(aggregate)
        aggregate.handover_at = None
        aggregate.is_offering = False


@dataclass(frozen=True)
class SuccessorCreated(RotationEvent):
    """The successor exists; with a second one, ``unseen_id`` is the first, unused or ended."""

    TOPIC: ClassVar[str] = "rotation.successor_created"

    grace_seconds: int
    unseen_id: str | None

    @property
    def awaits(self) -> str | None:
        """The successor."""
        return self.successor_id

    def apply(self, aggregate: "Rotation") -> None:
        """Begins the overlap of the two keys."""
        super().apply(aggregate)
        aggregate.overlap_began_at = self.timestamp
        aggregate.grace_seconds = self.grace_seconds
        aggregate.handover_at = None
        aggregate.is_offering = False
        aggregate.successor_used_at = None
        aggregate.warned_for = None


@dataclass(frozen=True)
class SuccessorRevoked(RotationEvent):
    """The successor, ``successor_id``, was revoked before anybody used it: the key is without one again."""

    TOPIC: ClassVar[str] = "rotation.successor_revoked"

    @property
    def awaits(self) -> None:
        """Nothing any more."""

    def apply(self, aggregate: "Rotation") -> None:
        """Ends the overlap."""
        super().apply(aggregate)
        aggregate.successor_id = None


@dataclass(frozen=True)
class SuccessorUsed(RotationEvent):
    """The successor was accepted for the first time, at ``first_used_at``."""

    TOPIC: ClassVar[str] = "rotation.successor_used"

    first_used_at: datetime

    @property
    def awaits(self) -> None:
        """Nothing any more."""

    def apply(self, aggregate: "Rotation") -> None:
        """Remembers when."""
        super().apply(aggregate)
        aggregate.successor_used_at = self.first_used_at


@dataclass(frozen=True)
class GraceBegan(RotationEvent):
    """The grace period, which waited for the successor's first use, ends at ``retires_at``."""

    TOPIC: ClassVar[str] = "rotation.grace_began"


@dataclass(frozen=True)
class Extended(RotationEvent):
    """The owner put the end of the grace period off, to ``retires_at``, or to that long after the first use."""

    TOPIC: ClassVar[str] = "rotation.extended"

    grace_seconds: int

    def apply(self, aggregate: "Rotation") -> None:
        """Takes the longer grace period."""
        super().apply(aggregate)
        aggregate.grace_seconds = self.grace_seconds


@dataclass(frozen=True)
class StillInUse(RotationEvent):
    """The old key was to be silent by now, and was used last at ``last_used_at``."""

    TOPIC: ClassVar[str] = "rotation.still_in_use"

    last_used_at: datetime


@dataclass(frozen=True)
class RetiringSoon(RotationEvent):
    """The old key is refused from ``retires_at`` on, and is needed still: it is in use, or its successor is not.

    ``last_used_at``: the old key's last use; None: never. ``successor_used``: whether the successor was used at all.
    ``successor_id`` None: the successor was revoked, used or not (the previous release named it all the same).
    """

    TOPIC: ClassVar[str] = "rotation.retiring_soon"

    last_used_at: datetime | None
    successor_used: bool

    def apply(self, aggregate: "Rotation") -> None:
        """Remembers which end the owner was warned of; the overlap is that of the same two keys."""
        successor_id = aggregate.successor_id
        super().apply(aggregate)
        aggregate.successor_id = successor_id
        aggregate.warned_for = self.retires_at


@dataclass(frozen=True)
class Retired(RotationEvent):
    """The old key is refused from ``retired_at`` on; ``successor_id`` None: the successor was revoked, too.

    ``reason``: ``grace_over``, ``silent`` (nobody had used it any more), ``at_once`` (no grace was asked for, or it was
    revoked as rotated while its successor could not be handed over), ``compromised``, or ``revoked`` (by hand, while
    the two overlapped).
    """

    TOPIC: ClassVar[str] = "rotation.retired"

    retired_at: datetime
    reason: str


@dataclass(frozen=True)
class Closed(RotationEvent):
    """The rotation is over: ``outcome`` is ``rotated``, or how else the key ended: ``revoked``, ``expired``."""

    TOPIC: ClassVar[str] = "rotation.closed"
    ENDS: ClassVar[bool] = True

    outcome: str

    @property
    def awaits(self) -> None:
        """Nothing any more."""
