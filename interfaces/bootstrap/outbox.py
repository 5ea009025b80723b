"""The ways to the outside, and what runs for each of them in the background process."""

from collections.abc import Callable
from datetime import timedelta
from threading import Event as Flag

from application.notifications import NoticeCarrier
from application.webhook_delivery import WebhookCarrier
from application.webhooks import CHANNEL
from domain.destination import Destinations
from infrastructure.mailbox import Mailbox
from infrastructure.outbox import Channel, CountDelivery, OutboxDelivery, OutboxFollower
from infrastructure.postgres.accounts import PostgresAccounts
from infrastructure.postgres.notices import NoticeSource
from infrastructure.postgres.outbox import PostgresOutbox
from infrastructure.postgres.webhooks import PostgresWebhooks, WebhookSource
from infrastructure.smtp import SmtpPostOffice
from infrastructure.webhook_client import WebhookClient
from interfaces.bootstrap.core import Core

MAILBOX = "mailbox"
MAILS_AT_ONCE = 8
MAIL_LEASE = timedelta(minutes=4)
"""Longer than a mail takes: its own minute, ten seconds for each address of the server, and the resolver's time."""

WEBHOOKS_AT_ONCE = 32
WEBHOOKS_AT_ONCE_PER_ACCOUNT = 16
"""Of one account that is slow alone: with 8, thirty bad endpoints of an account kept its good one waiting too long."""
WEBHOOKS_AT_ONCE_PER_ENDPOINT = 2
WEBHOOK_LEASE_BEYOND = timedelta(seconds=30)  # for the name and the record


def channels(core: Core) -> tuple[Channel, ...]:
    """Every way to the outside that the settings give."""
    return _mail(core), _webhooks(core)


def _mail(core: Core) -> Channel:
    settings = core.settings
    post_office = Mailbox(settings.data_dir / MAILBOX, settings.mail_from)
    if settings.smtp is not None:
        post_office = SmtpPostOffice(settings.smtp, settings.mail_from)
    carrier = NoticeCarrier(
        post_office=post_office,
        accounts=PostgresAccounts(core.database),
        seals=core.ring,
        public_url=settings.public_url or settings.own_url,
    )
    return Channel("email", NoticeSource(), carrier, at_once=MAILS_AT_ONCE, lease=MAIL_LEASE)


def webhook_carrier(core: Core) -> WebhookCarrier:
    """What signs webhooks and sends them, to permitted addresses alone."""
    settings = core.settings
    return WebhookCarrier(
        ledger=core.ledger,
        webhooks=PostgresWebhooks(core.database),
        seals=core.ring.sealer,
        sender=WebhookClient(Destinations(settings.webhook_allowed_networks), total=settings.webhook_timeout),
        clock=core.clock,
        entropy=core.entropy,
    )


def _webhooks(core: Core) -> Channel:
    carrier = webhook_carrier(core)
    lease = core.settings.webhook_timeout + WEBHOOK_LEASE_BEYOND
    return Channel(
        CHANNEL,
        WebhookSource(),
        carrier,
        at_once=WEBHOOKS_AT_ONCE,
        at_once_per_account=WEBHOOKS_AT_ONCE_PER_ACCOUNT,
        at_once_per_target=WEBHOOKS_AT_ONCE_PER_ENDPOINT,
        lease=lease,
    )


def outbox_followers(core: Core, count: CountDelivery) -> dict[str, Callable[[Flag], None]]:
    """For each channel, what makes its messages, and what brings them to their receivers."""
    outbox = PostgresOutbox(core.database)
    followers: dict[str, Callable[[Flag], None]] = {}
    for channel in channels(core):
        delivery = OutboxDelivery(outbox, channel, clock=core.clock, entropy=core.entropy, count=count)
        followers[f"{channel.name}_outbox"] = OutboxFollower(core.database, core.recorder, channel, core.clock).run
        followers[f"{channel.name}_delivery"] = delivery.run
    return followers
