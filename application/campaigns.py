"""Campaigns: the platform's own resource that keys protect."""

from collections.abc import Sequence

from application.ledger import Ledger
from application.ports import Campaigns, CampaignView, Entropy
from domain.campaign import Campaign
from domain.credential import Environment
from domain.errors import ForbiddenError
from domain.events import Origin
from domain.ids import AccountId, CampaignId
from domain.naming import Name


class CampaignManagement:
    """An account's campaigns, in one environment."""

    def __init__(self, *, ledger: Ledger, campaigns: Campaigns, entropy: Entropy) -> None:
        self._ledger = ledger
        self._campaigns = campaigns
        self._entropy = entropy

    def create(self, *, account_id: AccountId, environment: Environment, name: Name, by: Origin) -> CampaignView:
        """A new campaign in the caller's environment."""
        campaign_id = CampaignId.from_entropy(self._entropy.bytes(16))
        self._ledger.append(
            Campaign.create(campaign_id, by=by, account_id=account_id, name=name, environment=environment)
        )
        return self.get(account_id=account_id, environment=environment, campaign_id=campaign_id)

    def get(self, *, account_id: AccountId, environment: Environment, campaign_id: CampaignId) -> CampaignView:
        """One campaign; ForbiddenError for one that is unknown, another account's, or in another environment."""
        campaign = self._campaigns.find(campaign_id)
        if campaign is None or campaign.account_id != account_id or campaign.environment is not environment:
            raise ForbiddenError
        return campaign

    def page(
        self, *, account_id: AccountId, environment: Environment, before: int | None = None, limit: int
    ) -> Sequence[CampaignView]:
        """The account's campaigns in the caller's environment, newest first."""
        return self._campaigns.page(account_id, environment, before=before, limit=limit)
