"""Builders: the smallest thing of each kind, with what a test cares about overridden by name."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from domain.access import Plan
from domain.account import Account
from domain.api_key import ApiKey
from domain.campaign import Campaign
from domain.credential import Environment
from domain.destination import WebhookUrl
from domain.events import Origin
from domain.foreign_key import Algorithm, ForeignHash
from domain.ids import AccountId, CampaignId, KeyId, WebhookEndpointId
from domain.naming import Name
from domain.webhook_endpoint import Subscriptions, WebhookEndpoint

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_numbers = count(1)


def entropy(number: int) -> bytes:
    """32 bytes that differ for each number."""
    return number.to_bytes(32, "big")


@dataclass(slots=True)
class SettableClock:
    """A clock that moves when told to."""

    at: datetime = NOON

    def now(self) -> datetime:
        """The instant it was set to."""
        return self.at

    def advance(self, by: timedelta) -> None:
        """Moves on."""
        self.at += by


@dataclass(slots=True)
class CountingEntropy:
    """Bytes that never repeat and are the same in each run."""

    counter: Any = field(default_factory=lambda: count(1))

    def bytes(self, count: int) -> bytes:
        """The next ones."""
        return (next(self.counter) * 7919).to_bytes(count, "big")


def origin(at: datetime = NOON, actor: str = "cli:tester") -> Origin:
    """Who, and when."""
    return Origin(actor, "req_0000000000000000000001", at)


def account_id(number: int = 1) -> AccountId:
    """An account's id."""
    return AccountId.from_entropy(entropy(number))


def key_id(number: int = 1) -> KeyId:
    """A key's id."""
    return KeyId.from_entropy(entropy(number))


def an_account(*, number: int = 1, plan: Plan = Plan.SCALE, at: datetime = NOON) -> Account:
    """An open account."""
    return Account.open(account_id(number), by=origin(at), name=Name("Relay"), email="owner@example.com", plan=plan)


def a_key(*, number: int | None = None, owner: AccountId | None = None, at: datetime = NOON, **values: Any) -> ApiKey:
    """An active key."""
    made = key_id(next(_numbers) + 1_000_000 if number is None else number)
    defaults: dict[str, Any] = {
        "account_id": owner or account_id(),
        "name": Name("Production API"),
        "environment": Environment.LIVE,
        "prefix": f"sk_live_{made.removeprefix('key_')}",
        "verifier_digest": "0" * 64,
    }
    return ApiKey.create(made, by=origin(at), **(defaults | values))


def an_imported_key(
    *, number: int | None = None, owner: AccountId | None = None, at: datetime = NOON, **values: Any
) -> ApiKey:
    """An active key that another system hashed."""
    made = key_id(next(_numbers) + 1_000_000 if number is None else number)
    defaults: dict[str, Any] = {
        "account_id": owner or account_id(),
        "name": Name("Moved API"),
        "environment": Environment.LIVE,
        "prefix": "acme_7Hq2",
        "foreign": ForeignHash.parse(Algorithm.SHA256, "0" * 64),
    }
    return ApiKey.import_(made, by=origin(at), **(defaults | values))


def a_campaign(*, number: int = 1, owner: AccountId | None = None, at: datetime = NOON) -> Campaign:
    """A campaign in the live environment."""
    return Campaign.create(
        CampaignId.from_entropy(entropy(number)),
        by=origin(at),
        account_id=owner or account_id(),
        name=Name("Backend engineers"),
        environment=Environment.LIVE,
    )


def a_webhook(
    *, number: int = 1, owner: AccountId | None = None, at: datetime = NOON, **values: Any
) -> WebhookEndpoint:
    """An enabled endpoint that is told all."""
    defaults: dict[str, Any] = {
        "account_id": owner or account_id(),
        "url": WebhookUrl("https://hooks.acme.example/keyledger"),
        "events": Subscriptions.parse(["*"]),
        "description": None,
    }
    return WebhookEndpoint.create(WebhookEndpointId.from_entropy(entropy(number)), by=origin(at), **(defaults | values))
