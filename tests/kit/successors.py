"""Owners of keys that are due, who want successors handed over; all of it in this process, by a clock that is moved."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import psycopg

from application.ports import Clock
from application.webhooks import EndpointChange
from domain.access import Plan
from domain.account import Handover
from domain.destination import WebhookUrl
from domain.webhook_endpoint import Subscriptions
from infrastructure.postgres.notices import NoticeSource
from infrastructure.postgres.webhooks import WebhookSource
from interfaces.bootstrap.background import jobs
from interfaces.bootstrap.core import Core, open_core
from interfaces.bootstrap.management import management
from interfaces.settings import Settings
from tests.kit.http_server import ROOT_SECRET, Back, QuickVerifiers
from tests.kit.webhooks import WebhookReceiver

DAY = timedelta(days=1)


class ClockAhead:
    """The database's time, and what a test puts before it."""

    def __init__(self, real: Clock) -> None:
        self._real = real
        self.ahead = timedelta()

    def now(self) -> datetime:
        """The instant."""
        return self._real.now() + self.ahead


@dataclass
class Owner:
    """An account that wants successors handed over, with a key that is due."""

    back: Back
    receiver: WebhookReceiver
    conninfo: str
    path: str

    def __post_init__(self) -> None:
        manage = self.back.manage
        account_id = self.back.account(Plan.TEAM)
        self.endpoint = manage.webhooks.create(
            account_id=account_id,
            url=WebhookUrl(self.receiver.url(self.path)),
            events=Subscriptions.parse(["invite.redeemed"]),
            description=None,
            by=self.back.origin(),
        )
        self.receiver.knows(self.endpoint.secret.reveal())
        found = self.endpoint.endpoint
        wanted = Handover(found.endpoint_id, found.url)
        manage.accounts.hand_over_to(account_id=account_id, handover=wanted, by=self.back.origin())
        self.key = self.back.key(account_id, ago=91 * DAY)

    def moves_to(self, url: str) -> None:
        """The webhook has that URL, and is chosen with it."""
        manage, found = self.back.manage, self.endpoint.endpoint
        manage.webhooks.change(
            account_id=found.account_id,
            endpoint_id=found.endpoint_id,
            change=EndpointChange(url=WebhookUrl(url)),
            by=self.back.origin(),
        )
        wanted = Handover(found.endpoint_id, url)
        manage.accounts.hand_over_to(account_id=found.account_id, handover=wanted, by=self.back.origin())

    def run(self) -> None:
        """What the leader does in one round."""
        todo = jobs(self.back.core)
        for name in ("rotation", "workflow", "successors", "workflow"):
            todo[name].run()

    def story(self) -> list[str]:
        """The topics of the rotation, without when it is looked at."""
        with psycopg.connect(self.conninfo) as connection:
            rows = connection.execute(
                "SELECT topic FROM ledger.events WHERE topic LIKE 'rotation.%' ORDER BY position"
            ).fetchall()
        return [topic for (topic,) in rows]

    def errors(self) -> list[str]:
        """Why each attempt failed, as the rotation has it."""
        with psycopg.connect(self.conninfo) as connection:
            rows = connection.execute(
                "SELECT convert_from(state, 'UTF8')::jsonb ->> 'error' FROM ledger.events"
                " WHERE topic = 'rotation.handover_failed' ORDER BY position"
            ).fetchall()
        return [error for (error,) in rows]

    def later(self, by: timedelta) -> None:
        """Some time passes, by the clock of those who act here."""
        cast("ClockAhead", self.back.core.clock).ahead += by

    def live_successors(self) -> list[str]:
        """The ids of the successors that are accepted."""
        with psycopg.connect(self.conninfo) as connection:
            rows = connection.execute(
                "SELECT key_id FROM views.keys WHERE replaces = %s AND revoked_at IS NULL", [self.key.id]
            ).fetchall()
        return [key_id for (key_id,) in rows]

    def all_that_is_stored(self) -> str:
        """The text of the ledger and the outbox."""
        with psycopg.connect(self.conninfo) as connection:
            rows = connection.execute(
                "SELECT convert_from(state, 'UTF8') FROM ledger.events"
                " UNION ALL SELECT payload::text FROM outbox.messages"
            ).fetchall()
        return "\n".join(text for (text,) in rows)


@dataclass(frozen=True)
class Told:
    """What the ledger's events tell an account's owner, as the outbox makes it."""

    back: Back
    conninfo: str

    def messages(self) -> list[tuple[str, str]]:
        """The kinds, and which keys they are about, mails before webhooks."""
        made: list[tuple[str, str]] = []
        sources = (NoticeSource(), WebhookSource())
        with psycopg.connect(self.conninfo) as connection, connection.cursor() as cursor:
            for source in sources:
                for position, event in self.back.core.ledger.read(after=0, limit=1000, topics=source.topics):
                    messages = () if event is None else source.messages_for(cursor, event, position)
                    payloads = [(each.kind, cast("Any", each.payload)) for each in messages]
                    made += [(kind, body.get("thing_id") or body["data"]["id"]) for kind, body in payloads]
        return made


@contextmanager
def back_ahead(conninfo: str) -> Iterator[Back]:
    """The use cases on that database, for webhooks on the loopback, by a `ClockAhead`."""
    loopback = Settings.read({"KEYLEDGER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}).webhook_allowed_networks
    settings = Settings(
        database_url=conninfo,
        secret_keys=(ROOT_SECRET,),
        database_connections=4,
        webhook_allowed_networks=loopback,
    )
    with ExitStack() as stack:
        opened = open_core(settings, conninfo, stack)
        clock = cast("Any", ClockAhead(opened.clock))
        core: Core = replace(opened, verifiers=cast("Any", QuickVerifiers()), clock=clock)
        yield Back(core, management(core))
