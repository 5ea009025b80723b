"""The rotation workflow: which events concern a rotation, which facts it looks at, what its commands do."""

from collections.abc import Sequence
from datetime import timedelta

from application.ledger import Ledger
from application.usage_ports import UsageStats
from application.workflow_ports import UsedSuccessors
from domain.account import Account
from domain.api_key import ApiKey
from domain.api_key_events import (
    Disabled,
    Enabled,
    Expired,
    GraceBegan,
    GraceExtended,
    Revoked,
    Rotated,
    RotationDueChanged,
    RotationFellDue,
)
from domain.events import Aggregate, Event, Origin
from domain.handover import Traffic
from domain.ids import KeyId, RotationId
from domain.key_status import KeyStatus
from domain.rotation import Retire, Rotation, Withdraw
from domain.workflow import RETRIES, Process

OCCASIONS = 500
LONG_OVER = timedelta(days=30)
_BEGINS = (RotationFellDue, Rotated)
_CONCERNS = (
    RotationFellDue, RotationDueChanged, Rotated, GraceBegan, GraceExtended, Disabled, Enabled, Revoked, Expired,
)  # fmt: skip


class RotationWorkflow:
    """A rotation begins when its key falls due, or when somebody rotates the key."""

    name = "rotation"
    kind: type[Process] = Rotation
    topics = frozenset(event.TOPIC for event in _CONCERNS)

    def __init__(self, *, ledger: Ledger, usage: UsageStats, successors: UsedSuccessors) -> None:
        self._ledger = ledger
        self._usage = usage
        self._successors = successors

    def interested(self, event: Event) -> str | None:
        """The rotation of the key that the event is about."""
        return RotationId.of_key(KeyId(event.originator_id)) if isinstance(event, _CONCERNS) else None

    def begin(self, event: Event, *, by: Origin) -> Process | None:
        """A rotation of the key that fell due or was rotated; none for a key whose end is old news."""
        if not isinstance(event, _BEGINS):
            return None
        key = self._ledger.load(ApiKey, event.originator_id)
        ended = key.status(by.at) in {KeyStatus.REVOKED, KeyStatus.EXPIRED}
        return None if ended and by.at - event.timestamp > LONG_OVER else Rotation.of(key, by=by)

    def react(self, process: Process, *, by: Origin) -> Sequence[Aggregate]:
        """Looks at the key, at the traffic on it and on its successor, and at whether their account is suspended."""
        if not isinstance(process, Rotation):
            raise TypeError(type(process).__name__)
        key = self._ledger.load(ApiKey, process.key_id)
        hand_over_to = self._hand_over_to(key) if process.is_untold(key) else None
        commands = process.look(key, self._traffic(key), by=by, hand_over_to=hand_over_to)
        for command in commands:
            match command:
                case Retire():
                    key.end_grace(by=by)
                case Withdraw():
                    key.withdraw_rotation(by=by)
        return [key]

    def occasions(self) -> Sequence[str]:
        """Rotations whose successor has been used for the first time, or was revoked before that."""
        return self._successors.awaited(OCCASIONS)

    def on_failure(self, attempt: int) -> timedelta | None:
        """Five tries over seven hours, then stuck."""
        return RETRIES[attempt - 1] if attempt <= len(RETRIES) else None

    def _hand_over_to(self, key: ApiKey) -> str | None:
        handover = self._ledger.load(Account, str(key.account_id)).handover
        return None if handover is None else handover.endpoint_id

    def _traffic(self, key: ApiKey) -> Traffic:
        if key.replaced_by is None:
            return Traffic(predecessor_last=None, successor_first=None)
        usage = self._usage.of_keys([key.key_id, key.replaced_by])
        successor = self._ledger.load(ApiKey, key.replaced_by)
        account = self._ledger.load(Account, str(key.account_id))
        return Traffic(
            usage[key.key_id].last_used_at,
            usage[key.replaced_by].first_used_at,
            is_successor_revoked=successor.revoked_at is not None and successor.replaced_by is None,
            is_suspended=account.suspended,
            reinstated_at=account.reinstated_at,
        )
