"""Webhook endpoints on PostgreSQL: the view, the vault of their secrets, and the outbox as they see it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.outbox import MessageId, MessageState, NewMessage
from application.webhook_events import TYPES, ToldKey, body_of, is_told, key_id_of
from application.webhooks import AttemptView, DeliveryView, EndpointView
from domain import webhook_endpoint as endpoints
from domain.access import Feature, Plan
from domain.destination import WebhookUrl
from domain.events import Event
from domain.ids import AccountId, WebhookEndpointId, WebhookFailureId
from infrastructure.postgres.pool import Database


class WebhooksView:
    """One row an endpoint; a deleted one has none. With it go the secrets that sign no more."""

    name = "webhooks"

    INSERT = """
        INSERT INTO views.webhooks (
            endpoint_id, account_id, url, events, description, created_at, secret_version, created_position, position
        ) VALUES (
            %(id)s, %(account_id)s, %(url)s, %(events)s, %(description)s, %(at)s, 1, ledger.at(%(position)s),
            ledger.at(%(position)s)
        )
    """
    UPDATE = """
        UPDATE views.webhooks
        SET url = %(url)s, events = %(events)s, description = %(description)s, position = ledger.at(%(position)s)
        WHERE endpoint_id = %(id)s
    """
    # The first rotation has no secret before the last two, hence the NULL that is removed.
    ROTATE = """
        UPDATE views.webhooks
        SET older_until = (array_remove(array_prepend(previous_until, older_until), NULL))[1:%(older)s],
            secret_version = %(version)s, previous_until = %(previous_until)s, position = ledger.at(%(position)s)
        WHERE endpoint_id = %(id)s
    """
    DISABLE = """
        UPDATE views.webhooks SET disabled_at = %(at)s, disabled_reason = %(reason)s, position = ledger.at(%(position)s)
        WHERE endpoint_id = %(id)s
    """
    ENABLE = """
        UPDATE views.webhooks
        SET disabled_at = NULL, disabled_reason = NULL, failure_id = NULL, position = ledger.at(%(position)s)
        WHERE endpoint_id = %(id)s
    """
    GIVE_UP = """
        UPDATE views.webhooks SET failures = %(number)s, failure_id = %(failure_id)s, position = ledger.at(%(position)s)
        WHERE endpoint_id = %(id)s
    """
    DELETE = "DELETE FROM views.webhooks WHERE endpoint_id = %(id)s"
    # Versions only rise and the instant is the event's, so a replay deletes what its first time has deleted. The secret
    # before the present one stays until the next rotation, whether it signs or not.
    FORGET_ENDED_SECRETS = """
        DELETE FROM credentials.webhook_secrets AS s USING views.webhooks AS w
        WHERE s.endpoint_id = %(id)s AND w.endpoint_id = %(id)s AND s.version < w.secret_version - 1
          AND coalesce(w.older_until[w.secret_version - 1 - s.version] <= %(at)s, true)
    """
    FORGET_SECRETS = "DELETE FROM credentials.webhook_secrets WHERE endpoint_id = %(id)s"
    CLEAR = "DELETE FROM views.webhooks"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what an endpoint's event means."""
        row: dict[str, Any] = {"id": event.originator_id, "at": event.timestamp, "position": position}
        match event:
            case endpoints.Created():
                row |= {"account_id": event.account_id, **_described(event)}
                cursor.execute(self.INSERT, row)
            case endpoints.Updated():
                cursor.execute(self.UPDATE, row | _described(event))
            case endpoints.SecretRotated():
                row |= {"version": event.secret_version, "previous_until": event.previous_until}
                cursor.execute(self.ROTATE, row | {"older": endpoints.SIGNING_SECRETS_MAX - 2})
                cursor.execute(self.FORGET_ENDED_SECRETS, row)
            case endpoints.Disabled():
                cursor.execute(self.DISABLE, row | {"reason": event.reason})
            case endpoints.Enabled():
                cursor.execute(self.ENABLE, row)
            case endpoints.DeliveryGivenUp():
                failure_id = WebhookFailureId.of(WebhookEndpointId(event.originator_id), event.number)
                cursor.execute(self.GIVE_UP, row | {"number": event.number, "failure_id": failure_id})
            case endpoints.Deleted():
                cursor.execute(self.DELETE, row)
                cursor.execute(self.FORGET_SECRETS, row)
            case _:
                pass

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row; the vault stays."""
        cursor.execute(self.CLEAR)


def _described(event: endpoints.Created | endpoints.Updated) -> dict[str, Any]:
    return {"url": event.url, "events": list(event.events), "description": event.description}


class PostgresWebhooks:
    """The port `Webhooks`."""

    # A failure whose process does not run yet holds the endpoint, too; one that somebody cancelled does not.
    FIND = """
        SELECT endpoint_id, account_id, url, events, older_until, description, created_at, disabled_at, disabled_reason,
               secret_version, previous_until, created_position, failures,
               failure_id IS NOT NULL AND NOT EXISTS (
                   SELECT FROM workflow.processes AS p WHERE p.process_id = failure_id AND p.state = 'cancelled'
               )
        FROM views.webhooks WHERE endpoint_id = %(id)s
    """
    PAGE = """
        SELECT endpoint_id, account_id, url, events, older_until, description, created_at, disabled_at, disabled_reason,
               secret_version, previous_until, created_position, failures,
               failure_id IS NOT NULL AND NOT EXISTS (
                   SELECT FROM workflow.processes AS p WHERE p.process_id = failure_id AND p.state = 'cancelled'
               )
        FROM views.webhooks WHERE account_id = %(account_id)s AND created_position < %(before)s
        ORDER BY created_position DESC LIMIT %(limit)s
    """
    SEALED = "SELECT version, sealed FROM credentials.webhook_secrets WHERE endpoint_id = %(id)s"

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, endpoint_id: WebhookEndpointId) -> EndpointView | None:
        """One endpoint, whoever owns it; None for a deleted one, too."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.FIND, {"id": endpoint_id}).fetchone()
        return None if row is None else _endpoint(row)

    def page(self, account_id: AccountId, *, before: int | None, limit: int) -> Sequence[EndpointView]:
        """The account's endpoints created before that position, newest first."""
        parameters = {"account_id": account_id, "before": 2**62 if before is None else before, "limit": limit}
        with self._database.cursor() as cursor:
            return [_endpoint(row) for row in cursor.execute(self.PAGE, parameters).fetchall()]

    def sealed(self, endpoint_id: WebhookEndpointId) -> dict[int, bytes]:
        """The sealed secrets that are kept, by version."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.SEALED, {"id": endpoint_id}).fetchall()
        return {version: bytes(sealed) for version, sealed in rows}


class PostgresDeliveries:
    """The port `Deliveries`."""

    PAGE = """
        SELECT id, kind, state, created_at, next_at, number FROM outbox.messages
        WHERE target = %(target)s AND channel = 'webhook' AND number < %(before)s
          AND (%(id)s::text IS NULL OR id = %(id)s)
        ORDER BY number DESC LIMIT %(limit)s
    """
    ATTEMPTS = """
        SELECT message_id, at, status, latency_ms, error FROM outbox.attempts
        WHERE message_id = ANY(%(ids)s) ORDER BY message_id, number
    """
    # The schedule of what is pending stands. By `greatest` (which passes over NULL) what an earlier release has left in
    # the past puts off nothing.
    TRY_NOW = """
        UPDATE outbox.messages
        SET state = 'pending', next_at = %(now)s, ended_at = NULL, by_hand = by_hand OR state <> 'pending',
            scheduled_at = CASE WHEN state = 'pending' AND NOT by_hand THEN greatest(scheduled_at, next_at) END
        WHERE id = %(id)s AND target = %(target)s AND channel = 'webhook'
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, endpoint_id: WebhookEndpointId, *, before: int | None, limit: int) -> Sequence[DeliveryView]:
        """Messages with a number below that one, newest first."""
        return self._read(endpoint_id, None, before, limit)

    def find(self, endpoint_id: WebhookEndpointId, delivery_id: MessageId) -> DeliveryView | None:
        """One of the endpoint's messages."""
        return next(iter(self._read(endpoint_id, delivery_id, None, 1)), None)

    def try_now(self, endpoint_id: WebhookEndpointId, delivery_id: MessageId, now: datetime) -> None:
        """Makes the message due, whatever its state, beside its schedule; one that is under way stays so."""
        with self._database.cursor() as cursor:
            cursor.execute(self.TRY_NOW, {"id": delivery_id, "target": endpoint_id, "now": now})

    def _read(
        self, endpoint_id: WebhookEndpointId, delivery_id: MessageId | None, before: int | None, limit: int
    ) -> list[DeliveryView]:
        parameters = {
            "target": endpoint_id,
            "id": delivery_id,
            "before": 2**62 if before is None else before,
            "limit": limit,
        }
        with self._database.cursor() as cursor:
            messages = cursor.execute(self.PAGE, parameters).fetchall()
            rows = cursor.execute(self.ATTEMPTS, {"ids": [message[0] for message in messages]}).fetchall()
        attempts: dict[str, list[AttemptView]] = {}
        for message_id, at, status, latency_ms, error in rows:
            attempts.setdefault(message_id, []).append(AttemptView(at, status, latency_ms, error))
        return [_delivery(message, attempts.get(message[0], [])) for message in messages]


class WebhookSource:
    """The outbox's source of webhooks: what an event tells the endpoints that have subscribed to it.

    Those that there were when it happened, and that are enabled when it is read, of accounts whose plan has webhooks.
    A test goes to its own endpoint, whatever that has subscribed to.
    """

    topics = frozenset(TYPES)

    SUBSCRIBED = """
        SELECT w.endpoint_id, a.plan FROM views.webhooks AS w JOIN views.accounts AS a ON a.account_id = w.account_id
        WHERE w.account_id = %(account_id)s AND w.disabled_at IS NULL AND w.created_position < %(position)s
          AND (w.events && %(subscriptions)s OR w.endpoint_id = %(tested)s)
        ORDER BY w.created_position
    """
    KEY = """
        SELECT key_id, name, environment, prefix, lineage_id, replaces FROM views.keys WHERE key_id = %(key_id)s
    """

    def messages_for(self, cursor: Cursor[TupleRow], event: Event, position: int) -> Sequence[NewMessage]:
        """One message for each endpoint."""
        if not is_told(event):
            return []
        kind = TYPES[event.TOPIC]
        is_test = isinstance(event, endpoints.Tested)
        parameters = {
            "account_id": event.account_id,
            "position": position,
            "subscriptions": [] if is_test else list(kind.subscriptions),
            "tested": event.originator_id if is_test else None,
        }
        rows = cursor.execute(self.SUBSCRIBED, parameters).fetchall()
        told = [endpoint_id for endpoint_id, plan in rows if Plan(plan).includes(Feature.WEBHOOKS)]
        if not told:
            return []
        body = body_of(event, position, self._key(cursor, event))
        return [NewMessage(AccountId(str(event.account_id)), endpoint_id, kind.value, body) for endpoint_id in told]

    def _key(self, cursor: Cursor[TupleRow], event: Event) -> ToldKey | None:
        key_id = key_id_of(event)
        row = None if key_id is None else cursor.execute(self.KEY, {"key_id": key_id}).fetchone()
        return None if row is None else ToldKey(*row)


def _endpoint(row: TupleRow) -> EndpointView:
    endpoint_id, account_id, url, events, older_until, *more = row
    return EndpointView(
        WebhookEndpointId(endpoint_id),
        AccountId(account_id),
        WebhookUrl(url),
        tuple(events),
        tuple(older_until),
        *more,
    )


def _delivery(message: TupleRow, attempts: Sequence[AttemptView]) -> DeliveryView:
    message_id, kind, state, created_at, next_at, number = message
    is_pending = state == MessageState.PENDING.value
    return DeliveryView(
        MessageId(message_id),
        kind,
        MessageState(state),
        created_at,
        next_at if is_pending else None,
        tuple(attempts),
        number,
    )
