"""`keyledger webhook`: create, list, change, test, delete, and what was delivered; any account's, as its operator."""

from argparse import Namespace
from datetime import timedelta

import msgspec

from application.webhooks import IssuedEndpoint
from domain.destination import WebhookUrl
from domain.errors import InvalidError
from domain.webhook_endpoint import Subscriptions
from interfaces.cli.exits import Exit
from interfaces.cli.paging import limit_of, show_page
from interfaces.cli.render import as_json, fields, rfc3339
from interfaces.cli.session import operator
from interfaces.cli.terminal import say, write
from interfaces.http.caller import parsed
from interfaces.http.errors import problem_of
from interfaces.http.paging import Pager
from interfaces.http.webhook_bodies import (
    ChangeWebhook,
    DeliveryBody,
    IssuedWebhookBody,
    RotateSecret,
    WebhookBody,
    described,
)
from interfaces.http.webhooks import change_of, delivery_id_of
from interfaces.settings import Settings


def create(arguments: Namespace, settings: Settings) -> int:
    """Creates a webhook. The secret alone on stdout, or with --json the webhook's object; nothing shows it again."""
    url = parsed("url", WebhookUrl.parse, arguments.url)
    events = parsed("events", Subscriptions.parse, arguments.event)
    description = described(arguments.description)
    with operator(settings) as op:
        account_id = op.account_with_webhooks(arguments.account).account_id
        issued = op.manage.webhooks.create(
            account_id=account_id, url=url, events=events, description=description, by=op.origin
        )
        _hand_over(arguments, issued)
        say(f"{issued.endpoint.endpoint_id} created for {account_id}; its secret is shown only this once")
    return Exit.OK


def list_all(arguments: Namespace, settings: Settings) -> int:
    """An account's webhooks, newest first."""
    limit = limit_of(arguments)
    with operator(settings) as op:
        account_id = op.account(arguments.account).account_id
        pager = Pager(op.cursors, listing=f"webhooks {account_id}")
        endpoints = op.manage.webhooks.page(
            account_id=account_id, before=pager.position(arguments.cursor), limit=limit + 1
        )
        show_page(
            arguments,
            [WebhookBody.of(each) for each in endpoints],
            pager=pager,
            positions=[each.created_position for each in endpoints],
            columns={
                "id": lambda webhook: webhook.id,
                "status": lambda webhook: webhook.status,
                "events": lambda webhook: webhook.events,
                "url": lambda webhook: webhook.url,
                "created at": lambda webhook: webhook.created_at,
            },
        )
    return Exit.OK


def show(arguments: Namespace, settings: Settings) -> int:
    """One webhook, without its secret."""
    with operator(settings) as op:
        _show(arguments, WebhookBody.of(op.webhook(arguments.id)))
    return Exit.OK


def change(arguments: Namespace, settings: Settings) -> int:
    """Changes a webhook's url, events, description or status."""
    given = {
        "url": arguments.url,
        "events": arguments.event,
        "description": arguments.description,
        "status": arguments.status,
    }
    asked = ChangeWebhook(**{name: value for name, value in given.items() if value is not None})
    wanted = change_of(asked)
    with operator(settings) as op:
        endpoint = op.webhook(arguments.id)
        changed = op.manage.webhooks.change(
            account_id=endpoint.account_id, endpoint_id=endpoint.endpoint_id, change=wanted, by=op.origin
        )
        _show(arguments, WebhookBody.of(changed))
    return Exit.OK


def rotate_secret(arguments: Namespace, settings: Settings) -> int:
    """Makes a webhook's next secret. The secret alone on stdout, or with --json the webhook's object."""
    given = {} if arguments.grace_seconds is None else {"grace_seconds": arguments.grace_seconds}
    try:
        asked = msgspec.convert(given, RotateSecret)
    except msgspec.ValidationError as error:
        raise InvalidError((problem_of(error),)) from error
    with operator(settings) as op:
        endpoint = op.webhook(arguments.id)
        issued = op.manage.webhooks.rotate_secret(
            account_id=endpoint.account_id,
            endpoint_id=endpoint.endpoint_id,
            grace=timedelta(seconds=asked.grace_seconds),
            by=op.origin,
        )
        _hand_over(arguments, issued)
        until = issued.endpoint.previous_until
        say(f"{endpoint.endpoint_id}: the secret before it signs until {'now' if until is None else rfc3339(until)}")
    return Exit.OK


def deliveries(arguments: Namespace, settings: Settings) -> int:
    """What was and is to be delivered to a webhook, newest first."""
    limit = limit_of(arguments)
    with operator(settings) as op:
        endpoint = op.webhook(arguments.id)
        pager = Pager(op.cursors, listing=f"deliveries {endpoint.account_id} {endpoint.endpoint_id}")
        found = op.manage.webhooks.deliveries(
            account_id=endpoint.account_id,
            endpoint_id=endpoint.endpoint_id,
            before=pager.position(arguments.cursor),
            limit=limit + 1,
        )
        show_page(
            arguments,
            [DeliveryBody.of(each) for each in found],
            pager=pager,
            positions=[each.number for each in found],
            columns={
                "id": lambda delivery: delivery.id,
                "type": lambda delivery: delivery.type,
                "status": lambda delivery: delivery.status,
                "attempts": lambda delivery: len(delivery.attempts),
                "last status": lambda delivery: delivery.attempts[-1].status if delivery.attempts else None,
                "last error": lambda delivery: delivery.attempts[-1].error if delivery.attempts else None,
                "next attempt": lambda delivery: delivery.next_attempt_at,
                "created at": lambda delivery: delivery.created_at,
            },
        )
    return Exit.OK


def retry(arguments: Namespace, settings: Settings) -> int:
    """Makes one more attempt at a delivery; the running service's background process makes it."""
    delivery_id = delivery_id_of(arguments.delivery)
    with operator(settings) as op:
        endpoint = op.webhook(arguments.id)
        delivery = op.manage.webhooks.retry(
            account_id=endpoint.account_id,
            endpoint_id=endpoint.endpoint_id,
            delivery_id=delivery_id,
            now=op.origin.at,
        )
        _show(arguments, DeliveryBody.of(delivery))
    return Exit.OK


def test(arguments: Namespace, settings: Settings) -> int:
    """Sends a test message; the running service's background process brings it."""
    with operator(settings) as op:
        endpoint = op.webhook(arguments.id)
        delivery = op.manage.webhooks.test(
            account_id=endpoint.account_id, endpoint_id=endpoint.endpoint_id, by=op.origin
        )
        _show(arguments, DeliveryBody.of(delivery))
    return Exit.OK


def delete(arguments: Namespace, settings: Settings) -> int:
    """Deletes a webhook; what was still to be sent to it is not."""
    with operator(settings) as op:
        endpoint = op.webhook(arguments.id)
        op.manage.webhooks.delete(account_id=endpoint.account_id, endpoint_id=endpoint.endpoint_id, by=op.origin)
        say(f"{endpoint.endpoint_id} is deleted")
    return Exit.OK


def _show(arguments: Namespace, body: msgspec.Struct) -> None:
    write(as_json(body) if arguments.json else fields(body))


def _hand_over(arguments: Namespace, issued: IssuedEndpoint) -> None:
    """Writes the secret."""
    body = IssuedWebhookBody.of(issued.endpoint, secret=issued.secret.reveal())
    try:
        write(as_json(body) if arguments.json else f"{body.secret}\n")
    except OSError:
        say(f"{body.id} has a new secret that could not be written and is lost: rotate it, or delete the webhook")
        raise
