"""The outbox: what is to be told to somebody outside, once written, delivered at least once under one id.

``pending → delivered | failed | cancelled``. A channel (webhooks, e-mail) says what an event is to tell, and carries
each message; when, how often and how many at once is the outbox's.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from domain.ids import AccountId, Id


class MessageId(Id):
    """`msg_…`: one message to one receiver, the same in every attempt and however often it is made of its event."""

    __slots__ = ()
    PREFIX = "msg_"
    LENGTH = 22

    @classmethod
    def of(cls, *, channel: str, account_id: str, target: str, cause_position: int, kind: str) -> "MessageId":
        """The id that follows from what the message is."""
        what = "\n".join((channel, account_id, target, str(cause_position), kind))
        return cls.from_entropy(hashlib.sha256(what.encode()).digest())


class MessageState(StrEnum):
    """Where a message is in its life; nothing but a retry by hand leaves an ended one."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What an event is to tell one receiver.

    ``target`` names the receiver (an endpoint's id, an address); of one event each target gets one message of a
    ``kind``. ``payload`` is JSON, and whatever the carrier needs to say the same at every attempt; never a secret.
    """

    account_id: AccountId
    target: str
    kind: str
    payload: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Message:
    """A message at one attempt. ``attempt`` counts from 1; ``created_at`` is when what it tells happened.

    ``by_hand``: the message had ended, and somebody asked for this one attempt more, whatever the schedule says.
    ``scheduled_at``: it had not, and somebody asked for this attempt beside those of the schedule, which goes on then.
    ``unscheduled``: how many of the attempts up to this one were such.
    """

    id: MessageId
    account_id: AccountId
    target: str
    cause_position: int
    kind: str
    payload: Mapping[str, object]
    created_at: datetime
    attempt: int
    by_hand: bool = False
    unscheduled: int = 0
    scheduled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver took it. ``status``: its own code, None where it has none."""

    status: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The receiver did not take it.

    It is tried again by the carrier's schedule, not before ``retry_after``; a ``permanent`` failure is never tried
    again. ``error`` goes on record for people: no secret in it, 500 characters of it are kept.
    """

    error: str
    status: int | None = None
    retry_after: timedelta | None = None
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody wants it any more: the receiver is gone, or has turned it off."""

    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """It cannot be sent now, for a reason of ours: no attempt was made, and none counts; it is due again after that."""

    again_after: timedelta


Outcome = Delivered | Failed | Cancelled | Held


class Carrier(Protocol):
    """Brings one channel's messages to their receivers. Its methods run in several threads at once."""

    @property
    def retries(self) -> tuple[timedelta, ...]:
        """How long after each failed attempt the next follows, before jitter; after the last there is none."""
        ...

    def deliver(self, message: Message) -> Outcome:
        """One attempt, bounded in time by the carrier itself.

        The same message may come again after a crash, and twice at once when a process was taken for dead.
        """
        ...

    def give_up(self, message: Message, failure: Failed) -> None:
        """Told before the last failure of a message goes on record, and again when that is cut short.

        Not of an attempt by hand: it decides nothing.
        """
        ...

    def interrupt(self) -> None:
        """Ends the attempts under way within a second: the process stops. They are made again by the next one."""
        ...
