"""The HTTP application: the contract's routes behind the gate, every refusal in the one error body."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.exceptions import MethodNotAllowedException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp, Receive, Scope, Send

from application.accounts import AccountManagement
from application.campaigns import CampaignManagement
from application.keys import KeyManagement
from application.notice_links import NoticeLinks
from application.ports import Cursors, Health, SteadyClock
from application.usage_reports import UsageReports
from application.webhooks import WebhookManagement
from interfaces.http.account import account_router
from interfaces.http.body import JsonRequest
from interfaces.http.caller import caller_dependencies
from interfaces.http.campaigns import campaigns_router
from interfaces.http.dependencies import provide_in_turn
from interfaces.http.edge import Edge, RequestLine
from interfaces.http.errors import EXCEPTION_HANDLERS
from interfaces.http.forward import Forward, is_below
from interfaces.http.gate import Gate, Gatekeeper
from interfaces.http.health import health_router
from interfaces.http.keys import keys_router
from interfaces.http.methods import on_another_method, telling_methods
from interfaces.http.metrics import MetricsDoor, metrics_router
from interfaces.http.notifications import notice_pages_router, notifications_router
from interfaces.http.query import ExactQuery
from interfaces.http.quick import QuickForward
from interfaces.http.request import TrustedProxies
from interfaces.http.schema import DESCRIPTION, SECURITY, schema_router
from interfaces.http.usage import usage_router
from interfaces.http.verify import verify_router
from interfaces.http.webhooks import webhooks_router


@dataclass(frozen=True, slots=True)
class HttpServices:
    """All that the HTTP layer is built from."""

    gatekeeper: Gatekeeper
    clock: SteadyClock
    key_management: KeyManagement
    campaign_management: CampaignManagement
    account_management: AccountManagement
    notice_links: NoticeLinks
    usage_reports: UsageReports
    webhook_management: WebhookManagement
    health: Health
    cursors: Cursors
    new_request_id: Callable[[], str]
    log_request: RequestLine
    metrics_door: MetricsDoor
    trusted_proxies: TrustedProxies
    body_bytes_max: int
    close: Callable[[], None]


def create_app(services: HttpServices) -> ASGIApp:
    """The application, ready to serve; ``services.close`` is called when the server lets it go."""

    def given(value: Any) -> Provide:
        return Provide(lambda: value, sync_to_thread=False)

    # A function, since Litestar copies what it is given deeply, and a function is not copied.
    def gate(app: ASGIApp) -> ASGIApp:
        return Gate(app, keeper=services.gatekeeper)

    protected = Router(
        "/",
        route_handlers=[
            keys_router(),
            campaigns_router(),
            usage_router(),
            notifications_router(),
            account_router(),
            webhooks_router(),
            verify_router(),
        ],
        middleware=[gate, ExactQuery],
        dependencies=caller_dependencies(services.gatekeeper.clock),
        security=[{"apiKey": []}],
    )
    app = Litestar(
        route_handlers=[protected, health_router(), metrics_router(), notice_pages_router()],
        dependencies={
            "key_management": given(services.key_management),
            "campaign_management": given(services.campaign_management),
            "account_management": given(services.account_management),
            "notice_links": given(services.notice_links),
            "clock": given(services.gatekeeper.clock),
            "usage_reports": given(services.usage_reports),
            "webhook_management": given(services.webhook_management),
            "health": given(services.health),
            "cursors": given(services.cursors),
            "metrics_door": given(services.metrics_door),
            "gatekeeper": given(services.gatekeeper),
        },
        exception_handlers=EXCEPTION_HANDLERS | {MethodNotAllowedException: on_another_method},
        request_class=JsonRequest,
        request_max_body_size=services.body_bytes_max,
        openapi_config=OpenAPIConfig(
            title="Keyledger",
            version="1",
            description=DESCRIPTION,
            openapi_router=schema_router(),
            components=SECURITY,
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        on_shutdown=[services.close],
        # Left out, Litestar would replace the process's logging and print bodies, and read its own environment.
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    provide_in_turn(app)
    forward = Forward(services.gatekeeper, trusted_proxies=services.trusted_proxies)

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        """Proxies' questions go past the framework: they are most of the traffic, and need none of it."""
        if scope["type"] == "http":
            if is_below(scope["path"]):
                await forward(scope, receive, send)
                return
            if scope["method"] == "HEAD":
                scope["method"] = "GET"  # the same answer (RFC 9110 section 9.3.2), whose content the server leaves out
            elif scope["method"] == "OPTIONS":
                send = telling_methods(scope, send)
        await app(scope, receive, send)

    return Edge(
        inner,
        new_request_id=services.new_request_id,
        trusted_proxies=services.trusted_proxies,
        address_text=services.gatekeeper.address_text,
        clock=services.clock,
        log_request=services.log_request,
    )


def create_quick(services: HttpServices) -> QuickForward:
    """What answers most questions ahead of that application."""
    return QuickForward(
        services.gatekeeper,
        clock=services.clock,
        trusted_proxies=services.trusted_proxies,
        new_request_id=services.new_request_id,
        log_request=services.log_request,
    )
