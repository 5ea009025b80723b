"""The hand-over in one rotation: a successor that is made for an owner who wants that, and brought to their webhook.

Each attempt makes one and offers it; when one has arrived, or the last has failed, the rotation goes on. What came to
nobody is taken back, also of a rotation that was cancelled meanwhile.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from domain.api_key import ApiKey
from domain.events import Origin
from domain.ids import KeyId
from domain.key_status import KeyStatus
from domain.rotation_events import HandedOver, HandoverFailed, RotationEvent, Step, SuccessorOffered
from domain.workflow import RETRIES, Process, ProcessState, Timer

HAND_OVER = "hand over"
GO_ON = "go on"
LOST_AFTER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Accepted uses of both keys, up to the moment of the look; None: never, or no such key.

    ``is_successor_revoked``: it is, and nothing has taken its place. ``is_suspended``: their account is, so that
    neither can be used; ``reinstated_at``: when it was let run again, the last time; None: it never was.
    """

    predecessor_last: datetime | None
    successor_first: datetime | None
    is_successor_revoked: bool = False
    is_suspended: bool = False
    reinstated_at: datetime | None = None


class Handover(Process, topic="handover"):
    """A rotation's hand-over, and the steps that it has in common with the rest of it."""

    handover_at: datetime | None = None
    handover_to: str | None = None
    handover_attempts: int = 0
    offered_id: KeyId | None = None
    is_offering: bool = False
    has_given_up: bool = False

    def offer(self, key: ApiKey, *, by: Origin) -> bool:
        """Records that ``key`` has just been given a successor to be handed over.

        False, and nothing is recorded, when no attempt is due any more, as when another has been quicker.
        """
        if self.state is not ProcessState.RUNNING or self.handover_at is None or by.at < self.handover_at:
            return False
        lost_at = by.at + LOST_AFTER
        values: dict[str, Any] = {"endpoint_id": self.handover_to, "attempt": self.handover_attempts + 1}
        self.take(SuccessorOffered, key, Step.HANDOVER, by, lost_at=lost_at, **values)
        self.schedule((Timer(HAND_OVER, lost_at),), by=by)
        return True

    def end_attempt(self, attempt: int, key: ApiKey, *, error: str | None, final: bool, by: Origin) -> None:
        """Records how the attempt ended; ``error`` None: the receiver has the successor.

        Nothing when the rotation has gone on, or when the attempt was counted as lost and there has been another; nor
        of one that arrived when its key has another successor by now: what arrived is not it.
        Where no other attempt is wanted any more, what came to nobody is to be taken back at once.
        """
        is_over = self.state not in {ProcessState.RUNNING, ProcessState.CANCELLED}
        if self.handover_at is None or attempt != self.handover_attempts or is_over:
            return
        if error is None and key.replaced_by != self.offered_id:
            return
        values: dict[str, Any] = {"endpoint_id": self.handover_to, "attempt": attempt}
        retry_at = None if final or error is None else self._retry_at(self.handover_attempts, by)
        if error is None:
            self.take(HandedOver, key, Step.HANDOVER, by, **values)
        else:
            step = Step.DUE if retry_at is None else Step.HANDOVER
            self.take(HandoverFailed, key, step, by, error=error, retry_at=retry_at, **values)
        goes_on = self.state is ProcessState.RUNNING
        if retry_at is not None:
            is_wanted = goes_on and is_to_be_replaced(key, by)
            self.schedule((self.next_hand_over(by, is_wanted=is_wanted),), by=by)
        else:
            self.schedule((Timer(GO_ON, by.at),) if goes_on else (), by=by)

    def cancel(self, *, by: Origin) -> None:
        """Ends the process for ever; a successor that has come to nobody is still to be taken back."""
        withdrawal = self.next_hand_over(by, is_wanted=False)
        super().cancel(by=by)
        if self.state is ProcessState.CANCELLED and self.handover_at is not None and self.offered_id is not None:
            self.schedule((withdrawal,), by=by)

    def is_last(self, attempt: int, *, final: bool) -> bool:
        """Whether no other attempt follows that one when it fails."""
        return final or not 0 < attempt <= len(RETRIES)

    def next_hand_over(self, by: Origin, *, is_wanted: bool) -> Timer:
        """The next attempt; where none is wanted, what was offered is taken back, behind one that is under way."""
        due_at = self.handover_at or by.at
        if not is_wanted and not self.is_offering:
            # One that is due stays as it is: set anew at each look, it would be due again at once.
            due_at = min(due_at, by.at, *(timer.due_at for timer in self.timers if timer.step == HAND_OVER))
        return Timer(HAND_OVER, due_at)

    @property
    def has_attempts_left(self) -> bool:
        """Whether there may be one more attempt."""
        return self.handover_attempts <= len(RETRIES)

    def is_handing_over(self, key: ApiKey, traffic: Traffic) -> bool:
        """Whether attempts go on: the owner has not rotated by hand, and nobody uses what was offered."""
        return self.handover_at is not None and key.replaced_by == self.offered_id and traffic.successor_first is None

    def is_in_vain(self, key: ApiKey, traffic: Traffic) -> bool:
        """Whether the successor could not be handed over: nobody has it, and the owner must make another."""
        return self.has_given_up and key.replaced_by == self.offered_id and traffic.successor_first is None

    def take(self, event: type[RotationEvent], key: ApiKey, step: Step, by: Origin, **values: Any) -> None:
        """Records the event, with what each of them says of the key; the rotation is in ``step`` from then on."""
        facts: dict[str, Any] = {
            "step": step.value,
            "successor_id": key.replaced_by,
            "due_at": key.rotation_due_at,
            "retires_at": key.retires_at,
        }
        self.record(event, by=by, **(facts | subject_of(key) | values))

    def _retry_at(self, attempt: int, by: Origin) -> datetime | None:
        return by.at + RETRIES[attempt - 1] if 0 < attempt <= len(RETRIES) else None


def is_to_be_replaced(key: ApiKey, by: Origin) -> bool:
    """Whether a successor is wanted: the key is in force, and due."""
    ended_or_stopped = {KeyStatus.REVOKED, KeyStatus.EXPIRED, KeyStatus.DISABLED}
    return key.status(by.at) not in ended_or_stopped and by.at >= key.rotation_due_at


def subject_of(key: ApiKey) -> dict[str, str]:
    """How each event names the key."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "prefix": key.prefix,
        "environment": key.environment.value,
        "lineage_id": key.lineage_id,
    }
