"""What a key's status is at an instant, by the ends that it has; of an aggregate and of a row of a listing alike."""

from datetime import datetime
from enum import StrEnum
from typing import Protocol

from domain.ids import KeyId


class KeyStatus(StrEnum):
    """What a listing shows; the first that holds, in the order of ``status_of``."""

    ACTIVE = "active"
    ROTATION_DUE = "rotation_due"
    ROTATING = "rotating"
    DISABLED = "disabled"
    REVOKED = "revoked"
    EXPIRED = "expired"


class Lifetimes(Protocol):
    """What a key's status follows from; an aggregate has it, and so has a row of a listing."""

    @property
    def revoked_at(self) -> datetime | None: ...  # noqa: D102 - as the fields of Created and Revoked
    @property
    def retires_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def expires_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def disabled(self) -> bool: ...  # noqa: D102
    @property
    def replaced_by(self) -> KeyId | None: ...  # noqa: D102
    @property
    def rotation_due_at(self) -> datetime: ...  # noqa: D102


def status_of(key: Lifetimes, now: datetime) -> KeyStatus:
    """The key's status at ``now``: the first that holds, from the end of its life to the beginning."""
    if key.revoked_at is not None or (key.retires_at is not None and now >= key.retires_at):
        return KeyStatus.REVOKED
    if key.expires_at is not None and now >= key.expires_at:
        return KeyStatus.EXPIRED
    if key.disabled:
        return KeyStatus.DISABLED
    if key.replaced_by is not None:
        return KeyStatus.ROTATING
    return KeyStatus.ROTATION_DUE if now >= key.rotation_due_at else KeyStatus.ACTIVE


def revoked_since(key: Lifetimes, now: datetime) -> datetime | None:
    """Since when the key is revoked; None: it is not.

    One that its rotation retired, since the end of its grace period, whenever that was put on record.
    """
    if key.retires_at is not None and key.retires_at <= (key.revoked_at or now):
        return key.retires_at
    return key.revoked_at
