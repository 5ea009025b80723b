"""One rotation of one key, from the day it falls due to its retirement, as a process.

``due ⇄ paused | postponed → overlap → closed``; by hand it begins at ``overlap``, and it is ``due`` again when the
successor is revoked unused. The owner is told when the key is due and reminded on day 7, 14 and 30, and then each 30
days, until there is a successor. For an owner who wants that, the successor is made first and handed over (``due →
handover → overlap``), and only when that has failed for good the owner is told that the key is due. While two keys
overlap, traffic on both decides: the old key is retired once it has been silent for ``SILENT_AFTER`` while its
successor is in use, or by its own end of grace; the owner is warned when it is still needed near that end. What the key
itself records (flag, end of grace) is the key's; the process follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from domain.api_key import ApiKey, RevocationReason
from domain.events import Origin
from domain.handover import GO_ON, Handover, Traffic, is_to_be_replaced, subject_of
from domain.ids import AccountId, KeyId, RotationId
from domain.key_status import KeyStatus, revoked_since
from domain.rotation_events import (
    FIRST_REMINDERS,
    REMINDER_EVERY_DAYS,
    Began,
    Closed,
    Continued,
    Extended,
    GraceBegan,
    HandoverBegan,
    Notified,
    Paused,
    Postponed,
    Reminded,
    Retired,
    RetiringSoon,
    Step,
    StillInUse,
    SuccessorCreated,
    SuccessorRevoked,
    SuccessorUsed,
    newest_reminder,
)
from domain.verdict import NEVER
from domain.workflow import Timer

DAY = timedelta(days=1)
SILENT_AFTER = 8 * DAY
"""A weekly job is not cut off, also when it comes late by some hours."""
WARN_BEFORE_MAX = 3 * DAY
WARN_BEFORE_SHARE = 4
SILENCE = "silence"
SILENT = "silent"
AT_ONCE = "at_once"


@dataclass(frozen=True, slots=True)
class Retire:
    """A command: end the key's grace period now."""

    key_id: KeyId


@dataclass(frozen=True, slots=True)
class Withdraw:
    """A command: the key is to be without a successor again."""

    key_id: KeyId


Command = Retire | Withdraw


class Rotation(Handover, topic="rotation"):
    """The rotation of one key."""

    def __init__(
        self, *, account_id: str, key_id: str, step: str, due_at: datetime, retires_at: datetime | None
    ) -> None:
        self.account_id = AccountId(account_id)
        self.key_id = KeyId(key_id)
        self.step = step
        self.due_at = due_at
        self.notified_for: datetime | None = None
        self.reminded_day = 0
        self.successor_id: KeyId | None = None
        self.overlap_began_at: datetime | None = None
        self.grace_seconds = 0
        self.successor_used_at: datetime | None = None
        self.retires_at = retires_at
        self.warned_for: datetime | None = None

    @classmethod
    def of(cls, key: ApiKey, *, by: Origin) -> Self:
        """The rotation of a key that is due, or has a successor."""
        rotated = key.replaced_by is not None
        return cls.begin(
            Began,
            aggregate_id=RotationId.of_key(key.key_id),
            by=by,
            account_id=key.account_id,
            reason="rotated" if rotated else "due",
            step=Step.DUE.value,
            **subject_of(key),
            successor_id=None,
            due_at=key.rotation_due_at,
            retires_at=None,
        )

    def look(self, key: ApiKey, traffic: Traffic, *, by: Origin, hand_over_to: str | None = None) -> Sequence[Command]:
        """Records what should have happened by ``by.at`` and has not, and schedules the next look.

        The answer are the commands that belong to what was recorded, to be carried out in the same transaction.
        ``hand_over_to``: the webhook that is to be handed over a successor; None: the owner wants none.
        """
        status = key.status(by.at)
        ended = status in {KeyStatus.REVOKED, KeyStatus.EXPIRED}
        silent = False
        if not ended and hand_over_to is not None and self.is_untold(key) and status is KeyStatus.ROTATION_DUE:
            self.take(HandoverBegan, key, Step.HANDOVER, by, endpoint_id=hand_over_to)
        is_wanted = is_to_be_replaced(key, by)
        if self.is_handing_over(key, traffic) and (is_wanted or self.offered_id is not None):
            self.schedule((self.next_hand_over(by, is_wanted=is_wanted),), by=by)
            return ()
        if not ended and self._is_alone_again(key, traffic):
            self.take(SuccessorRevoked, key, Step.DUE, by)
            self.schedule((Timer(GO_ON, by.at),), by=by)
            return (Withdraw(key.key_id),)
        if key.replaced_by is not None and not self.is_in_vain(key, traffic):
            self._follow_overlap(key, traffic, by)
            if not ended:
                silent = self._watch(key, traffic, by)
        elif not ended:
            self._remind(key, status, by)
        if ended or silent:
            self._end(key, status, traffic, silent=silent, by=by)
        self.schedule(() if ended or silent else self._timers(key, traffic, by.at), by=by)
        return (Retire(key.key_id),) if silent else ()

    def is_untold(self, key: ApiKey) -> bool:
        """Whether neither was the owner told of this due date, nor was a successor to be handed over for it."""
        is_told = self.notified_for == key.rotation_due_at or self.handover_to is not None
        return self.step in {Step.DUE, Step.PAUSED, Step.POSTPONED} and not is_told

    def _is_alone_again(self, key: ApiKey, traffic: Traffic) -> bool:
        """Whether the successor was revoked unused, and the key has no end that would come all the same."""
        return traffic.is_successor_revoked and traffic.successor_first is None and key.retires_at is None

    def _remind(self, key: ApiKey, status: KeyStatus, by: Origin) -> None:
        if status is KeyStatus.DISABLED:
            if self.step != Step.PAUSED:
                self.take(Paused, key, Step.PAUSED, by)
            return
        if self.step == Step.PAUSED:
            self.take(Continued, key, Step.DUE, by)
        if by.at < key.rotation_due_at:
            if self.step != Step.POSTPONED or self.due_at != key.rotation_due_at:
                self.take(Postponed, key, Step.POSTPONED, by)
            return
        if self.step == Step.POSTPONED and self.notified_for == key.rotation_due_at:
            self.take(Continued, key, Step.DUE, by)
        if self.notified_for != key.rotation_due_at:
            self.take(Notified, key, Step.DUE, by)
        day = newest_reminder(by.at - key.rotation_due_at)
        if day > self.reminded_day:
            self.take(Reminded, key, Step.DUE, by, day=day)

    def _follow_overlap(self, key: ApiKey, traffic: Traffic, by: Origin) -> None:
        grace = int((key.grace or timedelta()).total_seconds())
        if self.step != Step.OVERLAP or self.successor_id != key.replaced_by:
            unseen_id = None if self.successor_id == key.replaced_by else self.successor_id
            self.take(SuccessorCreated, key, Step.OVERLAP, by, grace_seconds=grace, unseen_id=unseen_id)
        elif self.grace_seconds != grace or (self.retires_at is not None and self.retires_at != key.retires_at):
            self.take(Extended, key, Step.OVERLAP, by, grace_seconds=grace)
        elif self.retires_at != key.retires_at:
            self.take(GraceBegan, key, Step.OVERLAP, by)
        if self.successor_used_at is None and traffic.successor_first is not None:
            self.take(SuccessorUsed, key, Step.OVERLAP, by, first_used_at=traffic.successor_first)

    def _watch(self, key: ApiKey, traffic: Traffic, by: Origin) -> bool:
        """Whether the old key has been silent for long enough while the new one is in use."""
        silent_at = self._silent_at(key, traffic)
        if silent_at is not None and by.at >= silent_at:
            return True
        waited = [timer.due_at for timer in self.timers if timer.step == SILENCE and timer.due_at <= by.at]
        if traffic.predecessor_last is not None and any(at < traffic.predecessor_last + SILENT_AFTER for at in waited):
            self.take(StillInUse, key, Step.OVERLAP, by, last_used_at=traffic.predecessor_last)
        warn_at = self._warn_at()
        if warn_at is not None and by.at >= warn_at and self._is_needed(traffic):
            self.take(
                RetiringSoon,
                key,
                Step.OVERLAP,
                by,
                successor_id=None if traffic.is_successor_revoked else key.replaced_by,
                last_used_at=traffic.predecessor_last,
                successor_used=self.successor_used_at is not None and not traffic.is_successor_revoked,
            )
        return False

    def _end(self, key: ApiKey, status: KeyStatus, traffic: Traffic, *, silent: bool, by: Origin) -> None:
        is_replaced = key.replaced_by is not None and status is not KeyStatus.EXPIRED
        in_vain = self.is_in_vain(key, traffic)
        # Revoked as rotated, a key with a successor is told of by its rotation alone, also when nobody has that one.
        if is_replaced and (not in_vain or key.revoked_for == RevocationReason.ROTATED):
            retired_at = by.at if silent else revoked_since(key, by.at) or by.at
            reason = SILENT if silent else AT_ONCE if in_vain else self._reason(key)
            successor_id = None if traffic.is_successor_revoked else key.replaced_by
            values: dict[str, Any] = {"retired_at": retired_at, "reason": reason, "successor_id": successor_id}
            self.take(Retired, key, Step.OVERLAP, by, **values)
        outcome = "rotated" if is_replaced and not in_vain else status.value
        self.take(Closed, key, Step.CLOSED, by, outcome=outcome)

    def _reason(self, key: ApiKey) -> str:
        match key.revoked_for:
            case None | RevocationReason.ROTATED:
                return "grace_over" if self.grace_seconds else AT_ONCE
            case RevocationReason.COMPROMISED:
                return "compromised"
            case _:
                return "revoked"

    def _timers(self, key: ApiKey, traffic: Traffic, now: datetime) -> Sequence[Timer]:
        timers: list[Timer] = []
        if self.step == Step.DUE:
            day = _next_reminder(self.reminded_day)
            timers.append(Timer(f"reminder {day}", key.rotation_due_at + day * DAY))
        if self.step == Step.POSTPONED:
            timers.append(Timer("due", key.rotation_due_at))
        if self.step == Step.OVERLAP:
            if (silent_at := self._next_silence(key, traffic, now)) is not None:
                timers.append(Timer(SILENCE, silent_at))
            if (warn_at := self._warn_at()) is not None:
                timers.append(Timer("warning", warn_at))
        # What was due by now is done: a timer that stays would only fire again.
        return [timer for timer in timers if timer.due_at > now]

    def _next_silence(self, key: ApiKey, traffic: Traffic, now: datetime) -> datetime | None:
        """When to look whether the old key is silent; None: not before something happens to it."""
        if not traffic.is_suspended or self.successor_used_at is None:
            return self._silent_at(key, traffic)
        # No event of the key tells that its account is reinstated. What is waited for stays as it is, as at any look.
        waited = [timer.due_at for timer in self.timers if timer.step == SILENCE and timer.due_at > now]
        return min(waited, default=now + SILENT_AFTER)

    def _silent_at(self, key: ApiKey, traffic: Traffic) -> datetime | None:
        """When the old key has been silent for long enough; None: that is not known, or proves nothing.

        While we refuse it ourselves it cannot be used: it is silent from the time on at which it is accepted again. And
        once its successor is revoked it is the only key that is left.
        """
        if self.successor_used_at is None or self.overlap_began_at is None:
            return None
        if key.disabled or traffic.is_suspended or traffic.is_successor_revoked:
            return None
        accepted = max(key.enabled_at or NEVER, traffic.reinstated_at or NEVER)
        used = max(traffic.predecessor_last or NEVER, self.successor_used_at)
        return max(accepted, used, self.overlap_began_at) + SILENT_AFTER

    def _warn_at(self) -> datetime | None:
        """When the owner is to be warned of the present end; None: there is none, or the owner was."""
        if self.retires_at is None or self.warned_for == self.retires_at:
            return None
        return self.retires_at - min(WARN_BEFORE_MAX, timedelta(seconds=self.grace_seconds) / WARN_BEFORE_SHARE)

    def _is_needed(self, traffic: Traffic) -> bool:
        if self.successor_used_at is None or traffic.is_successor_revoked:
            return True
        return traffic.predecessor_last is not None and traffic.predecessor_last > self.successor_used_at


def _next_reminder(day: int) -> int:
    following = [first for first in FIRST_REMINDERS if first > day]
    return following[0] if following else (day // REMINDER_EVERY_DAYS + 1) * REMINDER_EVERY_DAYS
