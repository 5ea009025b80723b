"""Webhooks: an account's endpoints, their secrets, and what was delivered to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Final, Protocol

from application.ledger import Ledger, NewSealed, UnknownAggregateError
from application.outbox import MessageId, MessageState
from application.ports import Clock, Entropy
from domain.account import Handover
from domain.credential import Secret
from domain.destination import Destinations, WebhookUrl
from domain.errors import ConflictError, InvalidError, NotFoundError
from domain.events import Origin
from domain.ids import AccountId, WebhookEndpointId
from domain.naming import Note
from domain.webhook_endpoint import DisabledReason, EventType, Subscriptions, WebhookEndpoint
from domain.webhook_signature import SECRET_BYTES, secret_bytes, webhook_secret

CHANNEL: Final = "webhook"
UNKNOWN_WEBHOOK: Final = "No such webhook"
UNKNOWN_DELIVERY: Final = "No such delivery"
ENDPOINTS_MAX: Final = 50
GRACE_DEFAULT: Final = timedelta(days=1)
GRACE_MAX: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint, without its secrets. ``previous_until``: until when the secret before the present one signs.

    ``older_until``: until when those before that one sign, the newest first. ``failures``: how many deliveries to it
    were given up. ``is_held``: the last of these is not dealt with yet, and the endpoint is sent nothing meanwhile.
    """

    endpoint_id: WebhookEndpointId
    account_id: AccountId
    url: WebhookUrl
    events: tuple[str, ...]
    older_until: tuple[datetime, ...]
    description: str | None
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    secret_version: int
    previous_until: datetime | None
    created_position: int
    failures: int
    is_held: bool

    def signing_versions(self, now: datetime) -> list[int]:
        """The versions of the secrets that sign at ``now``, the newest first."""
        ends = (self.previous_until, *self.older_until)
        before = [self.secret_version - age for age, end in enumerate(ends, 1) if end is not None and now < end]
        return [self.secret_version, *before]


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt of a delivery. ``error`` None: it was taken; ``status`` None: there was no answer."""

    at: datetime
    status: int | None
    latency_ms: int
    error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One message to one endpoint, with its attempts, oldest first. ``next_at`` None: there is no other attempt.

    ``created_at``: when what it tells happened.
    """

    delivery_id: MessageId
    type: str
    state: MessageState
    created_at: datetime
    next_at: datetime | None
    attempts: tuple[AttemptView, ...]
    number: int


class Webhooks(Protocol):
    """The endpoints' view, written with each event, and the vault of their secrets."""

    def find(self, endpoint_id: WebhookEndpointId) -> EndpointView | None:
        """One endpoint, whoever owns it; None for a deleted one, too."""
        ...

    def page(self, account_id: AccountId, *, before: int | None, limit: int) -> Sequence[EndpointView]:
        """The account's endpoints created before that position, newest first."""
        ...

    def sealed(self, endpoint_id: WebhookEndpointId) -> dict[int, bytes]:
        """The sealed secrets that are kept, by version."""
        ...


class Deliveries(Protocol):
    """What the outbox holds for an endpoint."""

    def page(self, endpoint_id: WebhookEndpointId, *, before: int | None, limit: int) -> Sequence[DeliveryView]:
        """Messages with a number below that one, newest first."""
        ...

    def find(self, endpoint_id: WebhookEndpointId, delivery_id: MessageId) -> DeliveryView | None:
        """One of the endpoint's messages."""
        ...

    def try_now(self, endpoint_id: WebhookEndpointId, delivery_id: MessageId, now: datetime) -> None:
        """Makes the message due, whatever its state, beside its schedule; one that is under way stays so."""
        ...


class Seals(Protocol):
    """Authenticated encryption under a key that is not in the database."""

    def seal(self, plain: bytes, context: str) -> bytes:
        """What `open` takes back under the same ``context``."""
        ...

    def open(self, sealed: bytes, context: str) -> bytes | None:
        """The plain bytes; None for what was not sealed so."""
        ...


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """What is to change; an ellipsis leaves it as it is."""

    url: WebhookUrl | EllipsisType = ...
    events: Subscriptions | EllipsisType = ...
    description: Note | EllipsisType | None = ...
    is_enabled: bool | EllipsisType = ...


@dataclass(frozen=True, slots=True)
class IssuedEndpoint:
    """An endpoint with its new secret, for the one answer that shows it."""

    endpoint: EndpointView
    secret: Secret


class WebhookManagement:
    """What an owner does with webhooks. Another account's endpoint is NotFoundError, like one that never was."""

    def __init__(  # noqa: PLR0913 - the ports
        self,
        *,
        ledger: Ledger,
        webhooks: Webhooks,
        deliveries: Deliveries,
        seals: Seals,
        destinations: Destinations,
        entropy: Entropy,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._seals = seals
        self._destinations = destinations
        self._entropy = entropy
        self._clock = clock

    def create(
        self,
        *,
        account_id: AccountId,
        url: WebhookUrl,
        events: Subscriptions,
        description: Note | None,
        by: Origin,
    ) -> IssuedEndpoint:
        """A new endpoint with its secret, which is shown this once."""
        self._check(url)
        if len(self._webhooks.page(account_id, before=None, limit=ENDPOINTS_MAX)) >= ENDPOINTS_MAX:
            raise ConflictError(f"An account has at most {ENDPOINTS_MAX} webhooks")
        endpoint_id = WebhookEndpointId.from_entropy(self._entropy.bytes(16))
        secret = webhook_secret(self._entropy.bytes(SECRET_BYTES))
        endpoint = WebhookEndpoint.create(
            endpoint_id, by=by, account_id=account_id, url=url, events=events, description=description
        )
        self._ledger.append(endpoint, sealed=(self._sealed(endpoint_id, 1, secret),))
        return IssuedEndpoint(self.get(account_id=account_id, endpoint_id=endpoint_id), secret)

    def get(self, *, account_id: AccountId, endpoint_id: WebhookEndpointId) -> EndpointView:
        """One of the account's endpoints, without its secrets."""
        endpoint = self._webhooks.find(endpoint_id)
        if endpoint is None or endpoint.account_id != account_id:
            raise NotFoundError(UNKNOWN_WEBHOOK)
        return endpoint

    def receiver(self, *, account_id: AccountId, endpoint_id: WebhookEndpointId) -> Handover:
        """The endpoint as it may be chosen to be handed over successors; ConflictError while it is disabled."""
        endpoint = self.get(account_id=account_id, endpoint_id=endpoint_id)
        if endpoint.disabled_at is not None:
            raise ConflictError("A webhook that is disabled is handed over nothing; enable it first")
        return Handover(endpoint.endpoint_id, endpoint.url)

    def page(self, *, account_id: AccountId, before: int | None = None, limit: int) -> Sequence[EndpointView]:
        """The account's endpoints, newest first."""
        return self._webhooks.page(account_id, before=before, limit=limit)

    def change(
        self, *, account_id: AccountId, endpoint_id: WebhookEndpointId, change: EndpointChange, by: Origin
    ) -> EndpointView:
        """Changes where an endpoint is, what it is told, or whether."""
        if not isinstance(change.url, EllipsisType):
            self._check(change.url)

        def command(endpoint: WebhookEndpoint) -> None:
            endpoint.update(
                url=endpoint.url if isinstance(change.url, EllipsisType) else change.url,
                events=endpoint.events if isinstance(change.events, EllipsisType) else change.events,
                description=(
                    endpoint.description if isinstance(change.description, EllipsisType) else change.description
                ),
                by=by,
            )
            if change.is_enabled is True:
                endpoint.enable(by=by)
            elif change.is_enabled is False:
                endpoint.disable(reason=DisabledReason.OWNER, by=by)

        self._command(account_id, endpoint_id, command)
        return self.get(account_id=account_id, endpoint_id=endpoint_id)

    def delete(self, *, account_id: AccountId, endpoint_id: WebhookEndpointId, by: Origin) -> None:
        """Ends an endpoint; what was still to be sent to it is not."""
        self._command(account_id, endpoint_id, lambda endpoint: endpoint.delete(by=by))

    def rotate_secret(
        self, *, account_id: AccountId, endpoint_id: WebhookEndpointId, grace: timedelta, by: Origin
    ) -> IssuedEndpoint:
        """A new secret, shown this once; the one before it signs beside it for the grace period, as do those before."""
        secret = webhook_secret(self._entropy.bytes(SECRET_BYTES))

        def seal(endpoint: WebhookEndpoint) -> tuple[NewSealed, ...]:
            return (self._sealed(endpoint_id, endpoint.secret_version, secret),)

        self._command(account_id, endpoint_id, lambda endpoint: endpoint.rotate_secret(grace=grace, by=by), seal)
        return IssuedEndpoint(self.get(account_id=account_id, endpoint_id=endpoint_id), secret)

    def test(self, *, account_id: AccountId, endpoint_id: WebhookEndpointId, by: Origin) -> DeliveryView:
        """Sends the endpoint a `webhook.test`, as any other message; answers the delivery that it will be."""
        position = self._command(account_id, endpoint_id, lambda endpoint: endpoint.test(by=by))
        delivery_id = MessageId.of(
            channel=CHANNEL,
            account_id=account_id,
            target=endpoint_id,
            cause_position=position or 0,
            kind=EventType.WEBHOOK_TEST.value,
        )
        return DeliveryView(delivery_id, EventType.WEBHOOK_TEST.value, MessageState.PENDING, by.at, by.at, (), 0)

    def deliveries(
        self, *, account_id: AccountId, endpoint_id: WebhookEndpointId, before: int | None = None, limit: int
    ) -> Sequence[DeliveryView]:
        """The endpoint's deliveries, newest first: attempts with status and latency, and the next try."""
        self.get(account_id=account_id, endpoint_id=endpoint_id)
        return self._deliveries.page(endpoint_id, before=before, limit=limit)

    def retry(
        self, *, account_id: AccountId, endpoint_id: WebhookEndpointId, delivery_id: MessageId, now: datetime
    ) -> DeliveryView:
        """One more attempt at a delivery now, whatever came of it; ConflictError while the endpoint is disabled.

        Should it fail, it leaves the delivery's schedule, or the end that it has come to, as it was.
        """
        endpoint = self.get(account_id=account_id, endpoint_id=endpoint_id)
        self._delivery(endpoint_id, delivery_id)
        if endpoint.disabled_at is not None:
            raise ConflictError("A webhook that is disabled is sent nothing; enable it first")
        self._deliveries.try_now(endpoint_id, delivery_id, now)
        return self._delivery(endpoint_id, delivery_id)

    def _delivery(self, endpoint_id: WebhookEndpointId, delivery_id: MessageId) -> DeliveryView:
        delivery = self._deliveries.find(endpoint_id, delivery_id)
        if delivery is None:
            raise NotFoundError(UNKNOWN_DELIVERY)
        return delivery

    def _check(self, url: WebhookUrl) -> None:
        reason = self._destinations.refuse(url)
        if reason is not None:
            raise InvalidError.of("url", reason)

    def _sealed(self, endpoint_id: WebhookEndpointId, version: int, secret: Secret) -> NewSealed:
        context = sealing_context(endpoint_id, version)
        return NewSealed(endpoint_id, version, self._seals.seal(secret_bytes(secret), context))

    def _command(
        self,
        account_id: AccountId,
        endpoint_id: WebhookEndpointId,
        command: Callable[[WebhookEndpoint], None],
        sealed: Callable[[WebhookEndpoint], tuple[NewSealed, ...]] = lambda _: (),
    ) -> int | None:
        def owned(endpoint: WebhookEndpoint) -> None:
            if endpoint.account_id != account_id or endpoint.is_deleted:
                raise NotFoundError(UNKNOWN_WEBHOOK)
            command(endpoint)

        try:
            return self._ledger.change(WebhookEndpoint, endpoint_id, owned, sealed=sealed)[1]
        except UnknownAggregateError as error:
            raise NotFoundError(UNKNOWN_WEBHOOK) from error


def sealing_context(endpoint_id: WebhookEndpointId, version: int) -> str:
    """What a secret is sealed for: its row, so that no other row's can stand in its place."""
    return f"webhook_secrets/{endpoint_id}/{version}"
