"""What follows from a delivery that was given up, as a process: the endpoint is disabled, once for each failure.

``given up → closed``. A failure begins when the carrier gives a message up, and has a number among those of its
endpoint; enabled again, the endpoint's next failure is another process. It closes as the endpoint is disabled, or as
somebody else was quicker: disabled it, disabled and enabled it again, or deleted it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

from domain.events import FirstEvent, Origin
from domain.ids import AccountId, WebhookEndpointId, WebhookFailureId
from domain.webhook_endpoint import DeliveryGivenUp, DisabledReason, WebhookEndpoint
from domain.workflow import Process, StepTaken


class Step(StrEnum):
    """Where a failure stands."""

    GIVEN_UP = "given_up"
    CLOSED = "closed"


class Outcome(StrEnum):
    """How a failure ends; but for the first, others did something before the process came to it."""

    DISABLED = "disabled"
    WAS_DISABLED = "was_disabled"
    WAS_ENABLED = "was_enabled"
    DELETED = "deleted"


@dataclass(frozen=True)
class FailureEvent(StepTaken):
    """What both say: the endpoint, and which of its failures this is, counted from 1."""

    endpoint_id: str
    number: int

    @property
    def subject(self) -> str:
        """The endpoint that failed."""
        return self.endpoint_id


@dataclass(frozen=True)
class Began(FirstEvent, FailureEvent):
    """A delivery was given up. ``reason``: gone (410), or failing (the last retry)."""

    TOPIC: ClassVar[str] = "webhook_failure.began"

    reason: str
    delivery_id: str


@dataclass(frozen=True)
class Closed(FailureEvent):
    """The failure is dealt with; ``outcome`` is one of `Outcome`."""

    TOPIC: ClassVar[str] = "webhook_failure.closed"
    ENDS: ClassVar[bool] = True

    outcome: str


class WebhookFailure(Process, topic="webhook_failure"):
    """One failure of one endpoint."""

    def __init__(  # noqa: PLR0913, PLR0917 - the fields of the first event
        self, account_id: str, step: str, endpoint_id: str, number: int, reason: str, delivery_id: str
    ) -> None:
        self.account_id = AccountId(account_id)
        self.step = step
        self.endpoint_id = WebhookEndpointId(endpoint_id)
        self.number = number
        self.reason = DisabledReason(reason)
        self.delivery_id = delivery_id

    @classmethod
    def of(cls, given_up: DeliveryGivenUp, *, by: Origin) -> Self:
        """The failure that begins with this event."""
        endpoint_id = WebhookEndpointId(given_up.originator_id)
        return cls.begin(
            Began,
            aggregate_id=WebhookFailureId.of(endpoint_id, given_up.number),
            by=by,
            account_id=given_up.account_id,
            step=Step.GIVEN_UP.value,
            endpoint_id=endpoint_id,
            number=given_up.number,
            reason=given_up.reason,
            delivery_id=given_up.delivery_id,
        )

    def look(self, endpoint: WebhookEndpoint, *, by: Origin) -> bool:
        """Records the end; whether the endpoint is to be disabled with it, in the same transaction."""
        outcome = self._outcome(endpoint)
        self.record(
            Closed,
            by=by,
            step=Step.CLOSED.value,
            endpoint_id=self.endpoint_id,
            number=self.number,
            outcome=outcome.value,
        )
        self.schedule((), by=by)
        return outcome is Outcome.DISABLED

    def _outcome(self, endpoint: WebhookEndpoint) -> Outcome:
        if endpoint.is_deleted:
            return Outcome.DELETED
        if not endpoint.is_enabled:
            return Outcome.WAS_DISABLED
        return Outcome.DISABLED if endpoint.failing == self.number else Outcome.WAS_ENABLED
