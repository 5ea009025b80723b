"""The bodies of ``/api/webhooks``: what is asked, and what is answered."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from application.webhooks import GRACE_DEFAULT, GRACE_MAX, AttemptView, DeliveryView, EndpointView
from domain.naming import Note
from interfaces.http.caller import parsed

Url = Annotated[str, Meta(examples=["https://hooks.acme.example/keyledger"])]
Events = Annotated[list[str], Meta(examples=[["key.*"]], description="Event types; `key.*` and `*` stand for several.")]
Status = Literal["enabled", "disabled"]


class CreateWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """A new endpoint."""

    url: Url
    events: Events
    description: str | None = None


class ChangeWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; an absent field stays."""

    url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    status: Status | UnsetType = UNSET


class RotateSecret(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old secret signs beside the new one."""

    grace_seconds: Annotated[int, Meta(ge=0, le=int(GRACE_MAX.total_seconds()))] = int(GRACE_DEFAULT.total_seconds())


class WebhookBody(msgspec.Struct):
    """An endpoint, without its secret. ``disabled_reason``: `owner`, `gone` (it answered 410) or `failing`."""

    id: str
    url: str
    events: list[str]
    description: str | None
    status: Status
    disabled_reason: str | None
    disabled_at: datetime | None
    previous_secret_until: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, endpoint: EndpointView, /, **more: Any) -> Self:
        """The body of an endpoint."""
        return cls(
            id=endpoint.endpoint_id,
            url=endpoint.url,
            events=list(endpoint.events),
            description=endpoint.description,
            status="enabled" if endpoint.disabled_at is None else "disabled",
            disabled_reason=endpoint.disabled_reason,
            disabled_at=endpoint.disabled_at,
            previous_secret_until=endpoint.previous_until,
            created_at=endpoint.created_at,
            **more,
        )


class IssuedWebhookBody(WebhookBody, kw_only=True):
    """An endpoint with a new secret: the only answer that ever holds it."""

    secret: str


class AttemptBody(msgspec.Struct):
    """One attempt. ``status`` is null without an answer, ``error`` where it was accepted."""

    at: datetime
    status: int | None
    latency_ms: int
    error: str | None

    @classmethod
    def of(cls, attempt: AttemptView) -> Self:
        """The body of an attempt."""
        return cls(attempt.at, attempt.status, attempt.latency_ms, attempt.error)


class DeliveryBody(msgspec.Struct):
    """One message: its ``id`` is the `webhook-id` of every attempt. ``next_attempt_at`` is null after the last."""

    id: str
    type: str
    status: str
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[AttemptBody]

    @classmethod
    def of(cls, delivery: DeliveryView) -> Self:
        """The body of a delivery."""
        attempts = [AttemptBody.of(each) for each in delivery.attempts]
        return cls(
            delivery.delivery_id,
            delivery.type,
            delivery.state.value,
            delivery.created_at,
            delivery.next_at,
            attempts,
        )


class WebhookPage(msgspec.Struct):
    """One page of endpoints; ``next_cursor`` is null on the last."""

    data: list[WebhookBody]
    next_cursor: str | None


class DeliveryPage(msgspec.Struct):
    """One page of deliveries; ``next_cursor`` is null on the last."""

    data: list[DeliveryBody]
    next_cursor: str | None


def described(text: str | None) -> Note | None:
    """The description as it is kept; InvalidError when it cannot be read."""
    return None if text is None else parsed("description", Note.parse, text)
