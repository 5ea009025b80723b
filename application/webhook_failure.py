"""The workflow of failing webhooks: a delivery that was given up ends with its endpoint disabled, and its owner told.

The owner is told by `webhook.disabled` (application/notifications.py); the process sends nothing.
"""

from collections.abc import Sequence
from datetime import timedelta

from application.ledger import Ledger
from domain.events import Aggregate, Event, Origin
from domain.ids import WebhookEndpointId, WebhookFailureId
from domain.webhook_endpoint import DeliveryGivenUp, WebhookEndpoint
from domain.webhook_failure import WebhookFailure
from domain.workflow import RETRIES, Process


class WebhookFailureWorkflow:
    """A failure begins when a delivery is given up, and is over with the first look that goes well."""

    name = "webhook_failure"
    kind: type[Process] = WebhookFailure
    topics = frozenset({DeliveryGivenUp.TOPIC})

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger

    def interested(self, event: Event) -> str | None:
        """The failure that the event is: one for each of an endpoint's numbers."""
        if not isinstance(event, DeliveryGivenUp):
            return None
        return WebhookFailureId.of(WebhookEndpointId(event.originator_id), event.number)

    def begin(self, event: Event, *, by: Origin) -> Process | None:
        """The failure."""
        return WebhookFailure.of(event, by=by) if isinstance(event, DeliveryGivenUp) else None

    def react(self, process: Process, *, by: Origin) -> Sequence[Aggregate]:
        """Disables the endpoint, unless somebody has dealt with it."""
        if not isinstance(process, WebhookFailure):
            raise TypeError(type(process).__name__)
        endpoint = self._ledger.load(WebhookEndpoint, process.endpoint_id)
        if process.look(endpoint, by=by):
            endpoint.disable(reason=process.reason, by=by)
        return [endpoint]

    def occasions(self) -> Sequence[str]:
        """None: all that concerns a failure is told by events and timers."""
        return ()

    def on_failure(self, attempt: int) -> timedelta | None:
        """Five tries over seven hours, then stuck."""
        return RETRIES[attempt - 1] if attempt <= len(RETRIES) else None
