"""``/api/webhooks``: endpoints, their secrets, what was delivered to them; for accounts whose plan has webhooks."""

from datetime import timedelta

from litestar import Response, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from application.authentication import Need
from application.outbox import MessageId
from application.webhooks import (
    UNKNOWN_DELIVERY,
    UNKNOWN_WEBHOOK,
    EndpointChange,
    IssuedEndpoint,
    WebhookManagement,
)
from domain.access import Feature, Scope
from domain.destination import WebhookUrl
from domain.errors import NotFoundError
from domain.ids import MalformedIdError, WebhookEndpointId
from domain.webhook_endpoint import Subscriptions
from interfaces.http.caller import By, Caller, parsed
from interfaces.http.paging import LIMIT_DEFAULT, Cursor, GivenCursors, Limit, Pager
from interfaces.http.schema import ERRORS, OptionalBody
from interfaces.http.webhook_bodies import (
    ChangeWebhook,
    CreateWebhook,
    DeliveryBody,
    DeliveryPage,
    IssuedWebhookBody,
    RotateSecret,
    WebhookBody,
    WebhookPage,
    described,
)

Management = NamedDependency[WebhookManagement]
READ = {"need": Need(Scope.parse("webhooks:read"), Feature.WEBHOOKS)}
WRITE = {"need": Need(Scope.parse("webhooks:write"), Feature.WEBHOOKS)}
NO_STORE = {"Cache-Control": "no-store"}


@post(
    "/",
    status_code=201,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Create a webhook",
    response_description="The new webhook, with its secret",
)
def create_webhook(
    data: JSONBody[CreateWebhook], caller: Caller, origin: By, webhook_management: Management
) -> Response[IssuedWebhookBody]:
    """A new endpoint. Its `secret` verifies deliveries (Standard Webhooks), and is in this answer alone."""
    issued = webhook_management.create(
        account_id=caller.account_id,
        url=parsed("url", WebhookUrl.parse, data.url),
        events=parsed("events", Subscriptions.parse, data.events),
        description=described(data.description),
        by=origin,
    )
    return _issued(issued)


@get("/", opt=READ, responses=ERRORS, sync_to_thread=True, summary="List webhooks")
def list_webhooks(
    caller: Caller,
    webhook_management: Management,
    cursors: GivenCursors,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> WebhookPage:
    """The account's endpoints, newest first, without secrets."""
    pager = Pager(cursors, listing=f"webhooks {caller.account_id}")
    endpoints = webhook_management.page(account_id=caller.account_id, before=pager.position(cursor), limit=limit + 1)
    positions = [endpoint.created_position for endpoint in endpoints]
    return WebhookPage([WebhookBody.of(each) for each in endpoints[:limit]], pager.cursor(positions, limit=limit))


@get("/{webhook_id:str}", opt=READ, responses=ERRORS, sync_to_thread=True, summary="Get a webhook")
def get_webhook(webhook_id: FromPath[str], caller: Caller, webhook_management: Management) -> WebhookBody:
    """One endpoint, without its secret."""
    endpoint = webhook_management.get(account_id=caller.account_id, endpoint_id=endpoint_id_of(webhook_id))
    return WebhookBody.of(endpoint)


@patch("/{webhook_id:str}", opt=WRITE, responses=ERRORS, sync_to_thread=True, summary="Change a webhook")
def change_webhook(
    webhook_id: FromPath[str], data: JSONBody[ChangeWebhook], caller: Caller, origin: By, webhook_management: Management
) -> WebhookBody:
    """Changes what is given. `status` stops an endpoint, or starts one again that was stopped for whatever reason."""
    endpoint = webhook_management.change(
        account_id=caller.account_id, endpoint_id=endpoint_id_of(webhook_id), change=change_of(data), by=origin
    )
    return WebhookBody.of(endpoint)


@delete("/{webhook_id:str}", opt=WRITE, responses=ERRORS, sync_to_thread=True, summary="Delete a webhook")
def delete_webhook(webhook_id: FromPath[str], caller: Caller, origin: By, webhook_management: Management) -> None:
    """Ends the endpoint; what was still to be sent to it is not."""
    webhook_management.delete(account_id=caller.account_id, endpoint_id=endpoint_id_of(webhook_id), by=origin)


@post(
    "/{webhook_id:str}/rotate-secret",
    status_code=201,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    operation_class=OptionalBody,
    summary="Rotate a webhook's secret",
    response_description="The webhook, with its new secret",
)
def rotate_webhook_secret(
    webhook_id: FromPath[str],
    caller: Caller,
    origin: By,
    webhook_management: Management,
    data: JSONBody[RotateSecret | None] = None,
) -> Response[IssuedWebhookBody]:
    """Makes a new secret; the old one signs beside it for the grace period, so that either verifies a delivery.

    A later rotation does not shorten it: each secret signs to the end of its own grace period, the newest five at most.
    """
    asked = data or RotateSecret()
    issued = webhook_management.rotate_secret(
        account_id=caller.account_id,
        endpoint_id=endpoint_id_of(webhook_id),
        grace=timedelta(seconds=asked.grace_seconds),
        by=origin,
    )
    return _issued(issued)


@get("/{webhook_id:str}/deliveries", opt=READ, responses=ERRORS, sync_to_thread=True, summary="A webhook's deliveries")
def list_deliveries(  # noqa: PLR0913, PLR0917 - a path, a caller, and what every list takes
    webhook_id: FromPath[str],
    caller: Caller,
    webhook_management: Management,
    cursors: GivenCursors,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> DeliveryPage:
    """What was and is to be delivered, newest first: every attempt with status and latency, and the next one."""
    pager = Pager(cursors, listing=f"deliveries {caller.account_id} {webhook_id}")
    deliveries = webhook_management.deliveries(
        account_id=caller.account_id,
        endpoint_id=endpoint_id_of(webhook_id),
        before=pager.position(cursor),
        limit=limit + 1,
    )
    numbers = [delivery.number for delivery in deliveries]
    return DeliveryPage([DeliveryBody.of(each) for each in deliveries[:limit]], pager.cursor(numbers, limit=limit))


@post(
    "/{webhook_id:str}/deliveries/{delivery_id:str}/retry",
    status_code=202,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Retry a delivery",
)
def retry_delivery(
    webhook_id: FromPath[str],
    delivery_id: FromPath[str],
    caller: Caller,
    origin: By,
    webhook_management: Management,
) -> DeliveryBody:
    """Makes one more attempt now, under the same id, whatever came of the delivery before.

    If it fails, nothing else changes: a pending delivery's next attempt comes when it was to come.
    """
    delivery = webhook_management.retry(
        account_id=caller.account_id,
        endpoint_id=endpoint_id_of(webhook_id),
        delivery_id=delivery_id_of(delivery_id),
        now=origin.at,
    )
    return DeliveryBody.of(delivery)


@post(
    "/{webhook_id:str}/test",
    status_code=202,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Test a webhook",
)
def test_webhook(webhook_id: FromPath[str], caller: Caller, origin: By, webhook_management: Management) -> DeliveryBody:
    """Sends a `webhook.test`, signed and delivered as any other; the answer is the delivery to look for."""
    delivery = webhook_management.test(account_id=caller.account_id, endpoint_id=endpoint_id_of(webhook_id), by=origin)
    return DeliveryBody.of(delivery)


def webhooks_router() -> Router:
    """The routes of this module."""
    handlers = [
        create_webhook, list_webhooks, get_webhook, change_webhook, delete_webhook, rotate_webhook_secret,
        list_deliveries, retry_delivery, test_webhook,
    ]  # fmt: skip
    return Router("/api/webhooks", route_handlers=handlers, tags=["Webhooks"])


def change_of(asked: ChangeWebhook) -> EndpointChange:
    """The change that is asked for; InvalidError."""
    return EndpointChange(
        url=... if asked.url is UNSET else parsed("url", WebhookUrl.parse, asked.url),
        events=... if asked.events is UNSET else parsed("events", Subscriptions.parse, asked.events),
        description=... if asked.description is UNSET else described(asked.description),
        is_enabled=... if asked.status is UNSET else asked.status == "enabled",
    )


def endpoint_id_of(text: str) -> WebhookEndpointId:
    """The id; NotFoundError for what is none."""
    try:
        return WebhookEndpointId.parse(text)
    except MalformedIdError as error:
        raise NotFoundError(UNKNOWN_WEBHOOK) from error


def delivery_id_of(text: str) -> MessageId:
    """The id; NotFoundError for what is none."""
    try:
        return MessageId.parse(text)
    except MalformedIdError as error:
        raise NotFoundError(UNKNOWN_DELIVERY) from error


def _issued(issued: IssuedEndpoint) -> Response[IssuedWebhookBody]:
    body = IssuedWebhookBody.of(issued.endpoint, secret=issued.secret.reveal())
    return Response(body, status_code=201, headers=NO_STORE)
