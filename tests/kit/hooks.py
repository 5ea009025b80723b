"""Webhooks in this process: endpoints, their outbox and their failures, by a clock that is set."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from application.ledger import Ledger
from application.webhook_delivery import Answered, Unanswered, WebhookCarrier
from application.webhooks import IssuedEndpoint, WebhookManagement
from domain.access import Plan
from domain.destination import Destinations, WebhookUrl
from domain.events import Aggregate
from domain.ids import AccountId
from domain.webhook_endpoint import DeliveryGivenUp, DisabledReason, GivenUpDelivery, Subscriptions
from domain.webhook_failure import WebhookFailure
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.hashing import SecretRing
from infrastructure.outbox import Channel, OutboxDelivery, OutboxFollower
from infrastructure.postgres.outbox import PostgresOutbox
from infrastructure.postgres.pool import Database
from infrastructure.postgres.webhooks import PostgresDeliveries, PostgresWebhooks, WebhookSource
from infrastructure.system import SystemClock, SystemEntropy
from tests.kit.builders import SettableClock, a_webhook, account_id, an_account, origin
from tests.kit.workflow import VIEWS, CrashingBoundary, Scheduler

RING = SecretRing([bytes(range(32))])
URL = WebhookUrl("https://hooks.acme.example/keyledger")


def a_failed_webhook() -> list[Aggregate]:
    """An endpoint that is gone, and the process that has dealt with it."""
    webhook = a_webhook(number=5)
    lost = GivenUpDelivery(
        DisabledReason.GONE, "msg_0000000000000000000001", 1, 410, "the receiver says that it is gone"
    )
    webhook.give_up(lost, after=0, by=origin(actor="system:webhooks"))
    (given_up,) = [event for event in webhook.pending_events if isinstance(event, DeliveryGivenUp)]
    failure = WebhookFailure.of(given_up, by=origin(actor="system:workflow"))
    assert failure.look(webhook, by=origin(actor="system:workflow"))
    return [webhook, failure]


@dataclass
class ScriptedSender:
    """The port `WebhookSender`: answers as it is told, and keeps what it was given."""

    answers: list[Answered | Unanswered] = field(default_factory=list[Answered | Unanswered])
    sent: list[tuple[WebhookUrl, Mapping[str, str], bytes]] = field(
        default_factory=list[tuple[WebhookUrl, Mapping[str, str], bytes]]
    )

    def post(self, url: WebhookUrl, headers: Mapping[str, str], body: bytes) -> Answered | Unanswered:
        """The next answer, the last again and again; 204 without any."""
        self.sent.append((url, headers, body))
        if len(self.answers) > 1:
            return self.answers.pop(0)
        return self.answers[0] if self.answers else Answered(204, None)

    def interrupt(self) -> None:
        """Nothing is ever under way."""


class Hooks:
    """All of it on one database, with a clock of the test's own."""

    def __init__(self, database: Database, conninfo: str) -> None:
        self.conninfo = conninfo
        self.clock = SettableClock(SystemClock().now().replace(microsecond=0))
        self.views = [view() for view in VIEWS]
        self.recorder = PostgresRecorder(database, self.views)
        self.ledger = Ledger(PostgresLedgerFactory(self.recorder))
        self.sender = ScriptedSender()
        self.webhooks = PostgresWebhooks(database)
        self.database = database
        self.manage = WebhookManagement(
            ledger=self.ledger,
            webhooks=self.webhooks,
            deliveries=PostgresDeliveries(database),
            seals=RING.sealer,
            destinations=Destinations(),
            entropy=SystemEntropy(),
            clock=self.clock,
        )
        self.carrier = WebhookCarrier(
            ledger=self.ledger,
            webhooks=self.webhooks,
            seals=RING.sealer,
            sender=self.sender,
            clock=self.clock,
            entropy=SystemEntropy(),
        )
        channel = Channel("webhook", WebhookSource(), self.carrier)
        self.follower = OutboxFollower(database, self.recorder, channel, self.clock)
        self.delivery = OutboxDelivery(
            PostgresOutbox(database), channel, clock=self.clock, entropy=SystemEntropy(), count=lambda *_: None
        )
        self.ledger.append(an_account(plan=Plan.TEAM))

    def endpoint(self, *events: str, owner: AccountId | None = None) -> IssuedEndpoint:
        """A new endpoint that has subscribed to these."""
        return self.manage.create(
            account_id=owner or account_id(),
            url=URL,
            events=Subscriptions.parse(events or ("*",)),
            description=None,
            by=origin(self.clock.now()),
        )

    def bring(self) -> int:
        """Makes and delivers what is due; how many attempts there were."""
        while self.follower.catch_up():
            pass
        return self.delivery.deliver_due()

    def look(self, boundary: CrashingBoundary | None = None) -> None:
        """What the workflow engine does now, from where it stands, by another one each time."""
        Scheduler(self.database, clock=self.clock, boundary=boundary).engine.run()

    def told(self) -> list[str]:
        """The types of all that was sent."""
        return [json.loads(body)["type"] for _, _, body in self.sender.sent]
