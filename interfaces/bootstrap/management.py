"""What people do with the service: the use cases that change things, and the reports."""

from collections.abc import Callable
from dataclasses import dataclass

from application.accounts import AccountManagement
from application.campaigns import CampaignManagement
from application.imports import KeyImport
from application.keys import KeyManagement
from application.mails import MailManagement
from application.notice_links import NoticeLinks
from application.usage_reports import UsageReports
from application.webhooks import WebhookManagement, Webhooks
from application.workflow import WorkflowManagement
from application.workflow_ports import Processes
from domain.destination import Destinations
from domain.ids import RequestId
from infrastructure.metrics import Metrics
from infrastructure.postgres.accounts import PostgresAccounts
from infrastructure.postgres.campaigns import PostgresCampaigns
from infrastructure.postgres.freshness import DatabaseClock, PostgresFreshness
from infrastructure.postgres.history import PostgresHistory
from infrastructure.postgres.imports import PostgresImports
from infrastructure.postgres.key_answers import PostgresKeyAnswers
from infrastructure.postgres.mails import PostgresMails
from infrastructure.postgres.usage_reports import PostgresUsageRows
from infrastructure.postgres.webhooks import PostgresDeliveries, PostgresWebhooks
from infrastructure.postgres.workflow import PostgresProcesses
from infrastructure.projections import Rebuilder
from infrastructure.system import RequestIds
from interfaces.bootstrap.core import Core, following_views, immediate_views


@dataclass(frozen=True, slots=True)
class Management:
    """What people do with the service, for the HTTP layer and the command line alike."""

    keys: KeyManagement
    imports: KeyImport
    accounts: AccountManagement
    notice_links: NoticeLinks
    campaigns: CampaignManagement
    workflows: WorkflowManagement
    processes: Processes
    usage_reports: UsageReports
    webhooks: WebhookManagement
    webhooks_view: Webhooks
    mails: MailManagement
    rebuilder: Rebuilder
    new_request_id: Callable[[], RequestId]
    clock: DatabaseClock


def management(core: Core, metrics: Metrics | None = None) -> Management:
    """The use cases that change things; ``metrics`` count what they wait."""
    count = {} if metrics is None else {"count_wait": metrics.count_wait}
    cache = PostgresFreshness(core.database, **count, seat=core.seat)
    accounts = PostgresAccounts(core.database)
    account_management = AccountManagement(ledger=core.ledger, accounts=accounts, cache=cache, entropy=core.entropy)
    return Management(
        keys=KeyManagement(
            ledger=core.ledger,
            keys=core.keys,
            accounts=accounts,
            usage=core.usage,
            history=PostgresHistory(core.database),
            cache=cache,
            answers=PostgresKeyAnswers(core.database, cache),
            hashes=core.ring,
            verifiers=core.verifiers,
            entropy=core.entropy,
            clock=core.clock,
        ),
        imports=KeyImport(
            ledger=core.ledger, imports=PostgresImports(core.database), cache=cache, entropy=core.entropy
        ),
        accounts=account_management,
        notice_links=NoticeLinks(seals=core.ring, accounts=accounts, management=account_management),
        workflows=WorkflowManagement(ledger=core.ledger),
        processes=PostgresProcesses(core.database),
        campaigns=CampaignManagement(
            ledger=core.ledger, campaigns=PostgresCampaigns(core.database), entropy=core.entropy
        ),
        usage_reports=UsageReports(keys=core.keys, rows=PostgresUsageRows(core.database), clock=core.clock),
        webhooks=WebhookManagement(
            ledger=core.ledger,
            webhooks=PostgresWebhooks(core.database),
            deliveries=PostgresDeliveries(core.database),
            seals=core.ring.sealer,
            destinations=Destinations(core.settings.webhook_allowed_networks),
            entropy=core.entropy,
            clock=core.clock,
        ),
        webhooks_view=PostgresWebhooks(core.database),
        mails=MailManagement(PostgresMails(core.database)),
        rebuilder=Rebuilder(core.database, core.recorder, immediate_views(), following_views()),
        new_request_id=RequestIds(core.entropy).new,
        clock=core.clock,
    )
