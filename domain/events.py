"""What every event and aggregate has in common: who did it, in which request, for which account, and when.

An event is a frozen dataclass with a pinned ``TOPIC``; topics and field names are a public schema (see
``tests/architecture/golden_events.jsonl``). A field, once released, is never renamed or removed; a new one gets a plain
default. Retired topics stay reserved in ``RETIRED_TOPICS``.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.domain import BaseAggregate, CanInitAggregate, CanMutateAggregate
from eventsourcing.utils import register_topic

from domain.ids import AccountId

RETIRED_TOPICS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks, in which request, and when it is.

    ``actor`` is ``key:key_…`` for a caller with an API key, ``cli:<login>`` for an operator, ``system:<job>`` for the
    service itself. ``at`` is aware UTC.
    """

    actor: str
    request_id: str
    at: datetime


@dataclass(frozen=True)
class Event(CanMutateAggregate[str]):
    """A fact about one aggregate. ``account_id`` is None where the fact belongs to no single account."""

    originator_id: str
    originator_version: int
    timestamp: datetime
    actor: str
    request_id: str
    account_id: str | None

    TOPIC: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Registers the pinned topic, so that stored events find their class by name and never by module path."""
        super().__init_subclass__()
        topic = cls.__dict__.get("TOPIC")
        if topic is not None:
            if topic in RETIRED_TOPICS:
                msg = f"topic {topic!r} is retired"
                raise ValueError(msg)
            register_topic(topic, cls)


@dataclass(frozen=True)
class FirstEvent(Event, CanInitAggregate[str]):
    """The first event of an aggregate; ``originator_topic`` names the aggregate's kind."""

    originator_topic: str


class Aggregate(BaseAggregate[str]):
    """An aggregate whose id is the text that clients see, and whose events carry their origin."""

    account_id: AccountId | None
    """None: the aggregate belongs to no single account."""

    def __init_subclass__(cls, *, topic: str) -> None:
        """Pins the aggregate's name in its first event; the library registers it."""
        cls.TOPIC = topic
        super().__init_subclass__()

    @classmethod
    def begin(cls, event: type[FirstEvent], *, aggregate_id: str, by: Origin, **values: Any) -> Any:
        """A new aggregate from its first event."""
        return cls._create(event, id=aggregate_id, actor=by.actor, request_id=by.request_id, timestamp=by.at, **values)

    def record(self, event: type[Event], *, by: Origin, **values: Any) -> None:
        """Adds a fact: builds the event as the next version and applies it to this aggregate."""
        self.trigger_event(
            event,
            actor=by.actor,
            request_id=by.request_id,
            timestamp=by.at,
            account_id=self.account_id,
            **values,
        )
