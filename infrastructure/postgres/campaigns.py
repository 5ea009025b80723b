"""The campaigns' view: written in each event's transaction."""

from collections.abc import Sequence

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ports import CampaignView
from domain.campaign import Created
from domain.credential import Environment
from domain.events import Event
from domain.ids import AccountId, CampaignId
from infrastructure.postgres.pool import Database


class CampaignsView:
    """One row a campaign."""

    name = "campaigns"

    INSERT = """
        INSERT INTO views.campaigns (campaign_id, account_id, environment, name, created_at, position)
        VALUES (%(campaign_id)s, %(account_id)s, %(environment)s, %(name)s, %(at)s, ledger.at(%(position)s))
    """
    CLEAR = "DELETE FROM views.campaigns"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what a campaign's event means."""
        if isinstance(event, Created):
            cursor.execute(
                self.INSERT,
                {
                    "campaign_id": event.originator_id,
                    "account_id": event.account_id,
                    "environment": event.environment,
                    "name": event.name,
                    "at": event.timestamp,
                    "position": position,
                },
            )

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row."""
        cursor.execute(self.CLEAR)


class PostgresCampaigns:
    """The port `Campaigns`."""

    FIND = """
        SELECT campaign_id, account_id, environment, name, created_at, position
        FROM views.campaigns WHERE campaign_id = %(campaign_id)s
    """
    PAGE = """
        SELECT campaign_id, account_id, environment, name, created_at, position
        FROM views.campaigns
        WHERE account_id = %(account_id)s AND environment = %(environment)s AND position < %(before)s
        ORDER BY position DESC LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, campaign_id: CampaignId) -> CampaignView | None:
        """One campaign, whoever owns it; None when there is none."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.FIND, {"campaign_id": campaign_id}).fetchone()
        return None if row is None else _campaign(row)

    def page(
        self, account_id: AccountId, environment: Environment, *, before: int | None, limit: int
    ) -> Sequence[CampaignView]:
        """The account's campaigns in that environment, newest first."""
        parameters = {
            "account_id": account_id,
            "environment": environment.value,
            "before": 2**62 if before is None else before,
            "limit": limit,
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.PAGE, parameters).fetchall()
        return [_campaign(row) for row in rows]


def _campaign(row: TupleRow) -> CampaignView:
    campaign_id, account_id, environment, name, created_at, position = row
    return CampaignView(
        CampaignId(campaign_id), AccountId(account_id), Environment(environment), name, created_at, position
    )
