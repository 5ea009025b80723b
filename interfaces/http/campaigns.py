"""``/api/campaigns``: the platform's own resource, in the environment of the caller's key."""

from datetime import datetime
from typing import Self

import msgspec
from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from application.authentication import Need
from application.campaigns import CampaignManagement
from application.ports import CampaignView
from domain.access import Feature, Scope
from domain.credential import Environment
from domain.errors import ForbiddenError
from domain.ids import CampaignId, MalformedIdError
from domain.naming import Name
from interfaces.http.caller import By, Caller, parsed
from interfaces.http.paging import LIMIT_DEFAULT, Cursor, GivenCursors, Limit, Pager
from interfaces.http.schema import ERRORS

Management = NamedDependency[CampaignManagement]
READ = {"need": Need(Scope.parse("campaigns:read"), Feature.CAMPAIGNS)}
WRITE = {"need": Need(Scope.parse("campaigns:write"), Feature.CAMPAIGNS)}


class CreateCampaign(msgspec.Struct, forbid_unknown_fields=True):
    """A new campaign."""

    name: str


class CampaignBody(msgspec.Struct):
    """A campaign."""

    id: str
    name: str
    environment: Environment
    created_at: datetime

    @classmethod
    def of(cls, campaign: CampaignView) -> Self:
        """The body of a campaign."""
        return cls(campaign.campaign_id, campaign.name, campaign.environment, campaign.created_at)


class CampaignPage(msgspec.Struct):
    """One page of campaigns; ``next_cursor`` is null on the last."""

    data: list[CampaignBody]
    next_cursor: str | None


@get("/", opt=READ, responses=ERRORS, sync_to_thread=True, summary="List campaigns")
def list_campaigns(
    caller: Caller,
    campaign_management: Management,
    cursors: GivenCursors,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> CampaignPage:
    """The account's campaigns in the key's environment, newest first."""
    pager = Pager(cursors, listing=f"campaigns {caller.account_id} {caller.environment}")
    campaigns = campaign_management.page(
        account_id=caller.account_id,
        environment=caller.environment,
        before=pager.position(cursor),
        limit=limit + 1,
    )
    positions = [campaign.position for campaign in campaigns]
    return CampaignPage(
        [CampaignBody.of(campaign) for campaign in campaigns[:limit]], pager.cursor(positions, limit=limit)
    )


@get("/{campaign_id:str}", opt=READ, responses=ERRORS, sync_to_thread=True, summary="Get a campaign")
def get_campaign(
    campaign_id: FromPath[str],
    caller: Caller,
    campaign_management: Management,
) -> CampaignBody:
    """One campaign; an unknown one and another account's are the same 403."""
    try:
        parsed_id = CampaignId.parse(campaign_id)
    except MalformedIdError as error:
        raise ForbiddenError from error
    campaign = campaign_management.get(
        account_id=caller.account_id, environment=caller.environment, campaign_id=parsed_id
    )
    return CampaignBody.of(campaign)


@post(
    "/",
    status_code=201,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Create a campaign",
    response_description="The new campaign",
)
def create_campaign(
    data: JSONBody[CreateCampaign],
    caller: Caller,
    origin: By,
    campaign_management: Management,
) -> CampaignBody:
    """A new campaign in the key's environment."""
    campaign = campaign_management.create(
        account_id=caller.account_id,
        environment=caller.environment,
        name=parsed("name", Name.parse, data.name),
        by=origin,
    )
    return CampaignBody.of(campaign)


def campaigns_router() -> Router:
    """The routes of this module."""
    return Router("/api/campaigns", route_handlers=[list_campaigns, get_campaign, create_campaign], tags=["Campaigns"])
