"""A campaign: a resource of the platform that keys protect. It lives in the environment that it was created in."""

from dataclasses import dataclass
from typing import ClassVar, Self

from domain.credential import Environment
from domain.events import Aggregate, FirstEvent, Origin
from domain.ids import AccountId, CampaignId
from domain.naming import Name


@dataclass(frozen=True)
class Created(FirstEvent):
    """A campaign came to be."""

    TOPIC: ClassVar[str] = "campaign.created"

    name: str
    environment: str


class Campaign(Aggregate, topic="campaign"):
    """One campaign of one account."""

    def __init__(self, *, account_id: str, name: str, environment: str) -> None:
        self.account_id = AccountId(account_id)
        self.name = Name(name)
        self.environment = Environment(environment)

    @classmethod
    def create(
        cls, campaign_id: CampaignId, *, by: Origin, account_id: AccountId, name: Name, environment: Environment
    ) -> Self:
        """A new campaign."""
        return cls.begin(
            Created,
            aggregate_id=campaign_id,
            by=by,
            account_id=account_id,
            name=name,
            environment=environment.value,
        )
