"""Successors that nobody asked for: made when a key falls due, and handed over to the webhook that its owner chose."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from application.webhooks import EndpointChange
from domain.access import Plan
from domain.account import Handover
from domain.api_key import ApiKey, KeyStatus
from domain.destination import WebhookUrl
from domain.webhook_endpoint import Subscriptions
from interfaces.bootstrap.background import jobs
from interfaces.bootstrap.core import Core, open_core
from interfaces.bootstrap.management import management
from interfaces.settings import Settings
from tests.kit.http_server import ROOT_SECRET, Back, QuickVerifiers
from tests.kit.service import eventually
from tests.kit.webhooks import WebhookReceiver

DAY = timedelta(days=1)


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

    def all_that_is_stored(self) -> str:
        """The text of the ledger and the outbox."""
        with psycopg.connect(self.conninfo) as connection:
            rows = connection.execute(
                "SELECT convert_from(state, 'UTF8') FROM ledger.events"
                " UNION ALL SELECT payload::text FROM outbox.messages"
            ).fetchall()
        return "\n".join(text for (text,) in rows)


@pytest.fixture
def back(conninfo: str) -> Iterator[Back]:
    loopback = Settings.read({"KEYLEDGER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}).webhook_allowed_networks
    settings = Settings(
        database_url=conninfo,
        secret_keys=(ROOT_SECRET,),
        database_connections=4,
        webhook_allowed_networks=loopback,
    )
    with ExitStack() as stack:
        core: Core = replace(open_core(settings, conninfo, stack), verifiers=cast("Any", QuickVerifiers()))
        yield Back(core, management(core))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[WebhookReceiver]:
    with WebhookReceiver(tmp_path) as running:
        yield running


def test_the_receiver_gets_a_successor_that_counts(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """One signed delivery holds the key once; the predecessor is rotating; nothing that is stored holds the secret."""
    owner = Owner(back, receiver, conninfo, "/take")
    owner.run()
    owner.run()
    (hit,) = receiver.hits("/take")
    body = json.loads(hit["body"])
    assert (hit["verified_by"], body["type"], hit["body"].count(body["data"]["key"])) == (0, "key.successor_created", 1)
    assert body["data"]["replaces"] == owner.key.id
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.replaced_by, key.retires_at) == (
        KeyStatus.ROTATING,
        body["data"]["id"],
        None,
    )
    successor = back.core.ledger.load(ApiKey, body["data"]["id"])
    assert successor.status(back.origin().at) is KeyStatus.ACTIVE
    assert owner.story() == [
        "rotation.began", "rotation.handover_began", "rotation.successor_offered", "rotation.handed_over",
        "rotation.successor_created",
    ]  # fmt: skip
    assert body["data"]["key"].rpartition("_")[2] not in owner.all_that_is_stored()


def test_a_receiver_that_is_gone_leaves_the_rotation_to_its_owner(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """410: one attempt, the owner is told that the key is due, and the key is accepted as before."""
    owner = Owner(back, receiver, conninfo, "/410")
    owner.run()
    owner.run()
    assert len(receiver.hits("/410")) == 1
    assert owner.story() == [
        "rotation.began", "rotation.handover_began", "rotation.successor_offered", "rotation.handover_failed",
        "rotation.notified",
    ]  # fmt: skip
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.retires_at) == (KeyStatus.ROTATING, None)


def test_a_receiver_that_fails_is_tried_again_and_the_owner_is_not_told_yet(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """500: the next attempt is a timer of the process, with a successor of its own; the first one is then revoked."""
    owner = Owner(back, receiver, conninfo, "/500")
    owner.run()
    assert owner.story()[2:] == ["rotation.successor_offered", "rotation.handover_failed"]

    def tried_again() -> bool:
        owner.run()
        return len(receiver.hits("/500")) == 2

    eventually(tried_again, "the second attempt, five seconds later")
    first, second = (json.loads(hit["body"])["data"]["id"] for hit in receiver.hits("/500"))
    assert back.core.ledger.load(ApiKey, first).status(back.origin().at) is KeyStatus.REVOKED
    assert back.core.ledger.load(ApiKey, second).status(back.origin().at) is KeyStatus.ACTIVE
    assert "rotation.notified" not in owner.story()


def test_a_webhook_that_was_moved_is_handed_over_nothing(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """Who may change webhooks cannot have keys sent elsewhere: no successor is made, and the owner is told instead."""
    owner = Owner(back, receiver, conninfo, "/chosen")
    found = owner.endpoint.endpoint
    back.manage.webhooks.change(
        account_id=found.account_id,
        endpoint_id=found.endpoint_id,
        change=EndpointChange(url=WebhookUrl(receiver.url("/moved"))),
        by=back.origin(),
    )
    owner.run()
    assert receiver.hits() == []
    assert owner.story()[1:] == ["rotation.handover_began", "rotation.handover_failed", "rotation.notified"]
    assert back.core.ledger.load(ApiKey, owner.key.id).replaced_by is None
