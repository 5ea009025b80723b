"""A destination of webhooks.

``enabled ⇄ disabled → deleted``. It is disabled by its owner, or once a delivery to it was given up (it says that it is
gone, 410, or the last retry of a message failed), by the process that follows from that (`domain/webhook_failure.py`).
Its secret is made with it and rotated with an overlap: each signs to the end of its own grace, the newest five at most,
so that a rotation whose answer was lost takes nothing from the receiver. No event holds one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Self

from domain.destination import WebhookUrl
from domain.errors import ConflictError
from domain.events import Aggregate, Event, FirstEvent, Origin
from domain.ids import AccountId, WebhookEndpointId
from domain.naming import Note

EVENTS_MAX = 20
SIGNING_SECRETS_MAX = 5


class EventType(StrEnum):
    """What a webhook tells."""

    KEY_CREATED = "key.created"
    KEY_UPDATED = "key.updated"
    KEY_ROTATION_DUE = "key.rotation_due"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    KEY_EXPIRED = "key.expired"
    KEY_ATTACKED = "key.attacked"
    KEY_PRESENTED_AFTER_END = "key.presented_after_end"
    INVITE_REDEEMED = "invite.redeemed"
    WEBHOOK_TEST = "webhook.test"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What an endpoint may have subscribed to in order to be told this."""
        return self.value, f"{self.value.partition('.')[0]}.*", "*"


class Subscriptions(tuple[str, ...]):
    """Event types and wildcards (`key.*`, `*`), each once, in order."""

    __slots__ = ()

    @classmethod
    def parse(cls, texts: Collection[str]) -> "Subscriptions":
        """Reads untrusted texts; ValueError for an unknown one, for none, and for more than twenty."""
        known = {text for each in EventType for text in each.subscriptions}
        if not 1 <= len(texts) <= EVENTS_MAX:
            raise ValueError(f"between 1 and {EVENTS_MAX} event types are needed")
        if not known.issuperset(texts):
            raise ValueError(f"each must be one of: {', '.join(sorted(known))}")
        return cls(sorted(set(texts)))


class DisabledReason(StrEnum):
    """Why an endpoint is disabled."""

    OWNER = "owner"
    GONE = "gone"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class GivenUpDelivery:
    """The delivery that was given up, and how its last attempt ended; the fields are those of `DeliveryGivenUp`."""

    reason: DisabledReason
    delivery_id: str
    attempts: int
    status: int | None
    error: str


@dataclass(frozen=True)
class Created(FirstEvent):
    """An endpoint came to be, with the first version of its secret."""

    TOPIC: ClassVar[str] = "webhook.created"

    url: str
    events: tuple[str, ...]
    description: str | None


@dataclass(frozen=True)
class Updated(Event):
    """The endpoint's url, subscriptions or description changed; the event has all three as they are now."""

    TOPIC: ClassVar[str] = "webhook.updated"

    url: str
    events: tuple[str, ...]
    description: str | None

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Takes them."""
        aggregate.url = WebhookUrl(self.url)
        aggregate.events = Subscriptions(self.events)
        aggregate.description = _note(self.description)


@dataclass(frozen=True)
class SecretRotated(Event):
    """There is a new secret; the one before signs, too, until ``previous_until``."""

    TOPIC: ClassVar[str] = "webhook.secret_rotated"

    secret_version: int
    previous_until: datetime

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Takes the version."""
        aggregate.secret_version = self.secret_version


@dataclass(frozen=True)
class DeliveryGivenUp(Event):
    """A message was given up, the ``number``-th failure of this endpoint. Its process disables the endpoint.

    ``reason``: gone (it answered 410), failing (the last retry failed). ``attempts``: of the delivery, with this one.
    ``status`` None: there was no answer; ``error``: in words for the owner.
    """

    TOPIC: ClassVar[str] = "webhook.delivery_given_up"

    number: int
    reason: str
    delivery_id: str
    attempts: int
    status: int | None
    error: str

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Counts it."""
        aggregate.failures = aggregate.failing = self.number


@dataclass(frozen=True)
class Disabled(Event):
    """Nothing is sent any more. ``reason``: owner, gone (it answered 410), failing (its last retry failed)."""

    TOPIC: ClassVar[str] = "webhook.disabled"

    reason: str
    url: str

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Stops it."""
        aggregate.is_enabled = False


@dataclass(frozen=True)
class Enabled(Event):
    """What happens from now on is sent again."""

    TOPIC: ClassVar[str] = "webhook.enabled"

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Lets it run."""
        aggregate.is_enabled = True
        aggregate.failing = None


@dataclass(frozen=True)
class Tested(Event):
    """Its owner asked for a test message."""

    TOPIC: ClassVar[str] = "webhook.tested"

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Changes nothing."""


@dataclass(frozen=True)
class Deleted(Event):
    """The endpoint is gone, and its secrets with it."""

    TOPIC: ClassVar[str] = "webhook.deleted"

    def apply(self, aggregate: "WebhookEndpoint") -> None:
        """Ends it."""
        aggregate.is_deleted = True
        aggregate.is_enabled = False


class WebhookEndpoint(Aggregate, topic="webhook_endpoint"):
    """One endpoint of one account, without its secrets."""

    def __init__(self, *, account_id: str, url: str, events: tuple[str, ...], description: str | None) -> None:
        self.account_id = AccountId(account_id)
        self.url = WebhookUrl(url)
        self.events = Subscriptions(events)
        self.description = _note(description)
        self.secret_version = 1
        self.is_enabled = True
        self.is_deleted = False
        self.failures = 0
        self.failing: int | None = None

    @classmethod
    def create(  # noqa: PLR0913 - an endpoint is created whole
        cls,
        endpoint_id: WebhookEndpointId,
        *,
        by: Origin,
        account_id: AccountId,
        url: WebhookUrl,
        events: Subscriptions,
        description: Note | None,
    ) -> Self:
        """A new endpoint."""
        return cls.begin(
            Created,
            aggregate_id=endpoint_id,
            by=by,
            account_id=account_id,
            url=url,
            events=tuple(events),
            description=description,
        )

    def update(self, *, url: WebhookUrl, events: Subscriptions, description: Note | None, by: Origin) -> None:
        """Takes what is to be; the same as before records nothing."""
        if (url, events, description) != (self.url, self.events, self.description):
            self.record(Updated, by=by, url=url, events=tuple(events), description=description)

    def rotate_secret(self, *, grace: timedelta, by: Origin) -> None:
        """Makes room for the next secret; the one before it signs, too, for ``grace``, and older ones as was said."""
        self.record(SecretRotated, by=by, secret_version=self.secret_version + 1, previous_until=by.at + grace)

    def give_up(self, delivery: GivenUpDelivery, *, after: int, by: Origin) -> None:
        """Puts on record that a delivery was given up; nothing when the endpoint is not enabled any more.

        ``after``: how many failures there were when that was found out. Of several that are found out at once, the
        first counts.
        """
        if self.is_enabled and self.failures == after:
            self.record(
                DeliveryGivenUp,
                by=by,
                number=after + 1,
                reason=delivery.reason.value,
                delivery_id=delivery.delivery_id,
                attempts=delivery.attempts,
                status=delivery.status,
                error=delivery.error,
            )

    def disable(self, *, reason: DisabledReason, by: Origin) -> None:
        """Stops sending; again records nothing."""
        if self.is_enabled:
            self.record(Disabled, by=by, reason=reason.value, url=self.url)

    def enable(self, *, by: Origin) -> None:
        """Sends again; again records nothing."""
        if not self.is_enabled and not self.is_deleted:
            self.record(Enabled, by=by)

    def test(self, *, by: Origin) -> None:
        """Asks for a test message; ConflictError while disabled."""
        if not self.is_enabled:
            raise ConflictError("A webhook that is disabled cannot be tested")
        self.record(Tested, by=by)

    def delete(self, *, by: Origin) -> None:
        """Ends it."""
        self.record(Deleted, by=by)


def _note(text: str | None) -> Note | None:
    return None if text is None else Note(text)
