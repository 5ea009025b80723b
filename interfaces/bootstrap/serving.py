"""What one serving process is made of: the gate, and the application that granian calls."""

import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from litestar.types import ASGIApp

from application.attempts import AttemptLimiter
from application.authentication import Authenticator
from application.imported_keys import BCRYPT_PLACES, READS_AT_ONCE
from application.verified_keys import VerifiedKeys
from domain.ids import RunId
from infrastructure.board import Board
from infrastructure.hashing import Fingerprints
from infrastructure.metrics import Metrics
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.freshness import LedgerFollower, elapsed
from infrastructure.postgres.health import PostgresHealth
from infrastructure.postgres.metrics import MetricsTeller, PostgresMetrics
from infrastructure.request_log import RequestLog
from infrastructure.system import RequestIds, end_process, spare_long_lived_objects, take_short_turns
from infrastructure.traces import OtlpTraces
from interfaces.bootstrap.core import Core, attempts, open_core, start_logging, tie_to_parent
from interfaces.bootstrap.database import open_database
from interfaces.bootstrap.management import management
from interfaces.http.ahead import answer_ahead
from interfaces.http.app import HttpServices, create_app, create_quick
from interfaces.http.edge import RequestLine
from interfaces.http.gate import Gatekeeper
from interfaces.http.metrics import MetricsDoor
from interfaces.http.request import address_text
from interfaces.http.traces import Traced
from interfaces.settings import Settings

LIMITER_THREADS = 2
FOREIGN_THREADS = BCRYPT_PLACES + READS_AT_ONCE


@dataclass(frozen=True, slots=True)
class OpenGate:
    """What authenticates in one process, running."""

    keeper: Gatekeeper
    verified: VerifiedKeys
    metrics: Metrics
    new_request_id: Callable[[], str]
    takes_rows: Callable[[], bool]
    """Whether its access log does; without a row nothing is answered."""


def open_gate(core: Core, stack: ExitStack, *, on_fault: Callable[[], None]) -> OpenGate:
    """Starts what authenticating in this process takes: memory and its follower, limiter, access log, threads.

    ``on_fault`` is called when the access log has ended by a fault of our own, and whatever comes is refused from then
    on: a process of ours ends, a host's opens another gate.
    """
    settings, conninfo = core.settings, core.database.conninfo
    run_id, host = core.entropy.new(RunId), f"{platform.node()}:{os.getpid()}"
    threads = ThreadPoolExecutor(settings.database_connections, thread_name_prefix="authenticate")
    stack.callback(threads.shutdown, cancel_futures=True)
    limiter_threads = ThreadPoolExecutor(LIMITER_THREADS, thread_name_prefix="limit")
    stack.callback(limiter_threads.shutdown, cancel_futures=True)
    foreign_threads = ThreadPoolExecutor(FOREIGN_THREADS, thread_name_prefix="foreign")
    stack.callback(foreign_threads.shutdown, cancel_futures=True)
    access_log = stack.enter_context(
        PostgresAccessLog(
            conninfo,
            entropy=core.entropy,
            run_id=run_id,
            host=host,
            durability=settings.access_log_durability,
            window=settings.settlement_window,
            on_fault=on_fault,
        )
    )
    verified = VerifiedKeys(
        capacity=settings.cache_keys,
        fingerprint=Fingerprints(core.entropy.bytes(32)).of,
        elapsed=elapsed,
        board=core.seat,
    )
    stack.enter_context(
        LedgerFollower(
            conninfo,
            keys=verified,
            clock=core.clock,
            lease=settings.lease,
            process_id=run_id,
            host=host,
            seat=core.seat,
        )
    )
    authenticator = Authenticator(
        keys=core.keys,
        verified=verified,
        hashes=core.ring,
        verifiers=core.verifiers,
        clock=core.clock,
        environments=settings.environments,
    )
    keeper = Gatekeeper(
        authenticator=authenticator,
        limiter=AttemptLimiter(attempts=attempts(core), clock=core.clock),
        access_log=access_log,
        awaits_commit=settings.access_log_durability == "commit",
        clock=core.clock,
        address_text=address_text(settings.log_client_ip),
        threads=threads,
        limiter_threads=limiter_threads,
        foreign_threads=foreign_threads,
    )
    metrics = Metrics()
    metrics.watch(
        gauges={
            "keyledger_cached_keys": verified.__len__,
            "keyledger_lease_seconds": lambda: max(verified.fresh_for, -settings.lease.seconds),
            "keyledger_access_log_queue_rows": access_log.queued,
        },
        totals={
            "keyledger_key_hits_total": lambda: authenticator.hits,
            "keyledger_key_lookups_total": lambda: authenticator.look_ups,
        },
    )
    stack.enter_context(MetricsTeller(conninfo, metrics, process_id=run_id))
    return OpenGate(keeper, verified, metrics, RequestIds(core.entropy).text, access_log.takes_rows)


def share_board(settings: Settings) -> None:
    """Lets the serving processes that are forked from this one tell each other what they change."""
    Board.share(2 * settings.workers)  # a worker that is replaced may keep its seat for a while


def http_app() -> ASGIApp:
    """The application of one serving process, built from its environment; granian calls this in each worker."""
    settings = Settings.read()
    start_logging(settings, service="serve")
    tie_to_parent()
    with ExitStack() as stack:
        conninfo, _ = open_database(settings, stack)
        board = Board.of_this_server
        core = open_core(settings, conninfo, stack, seat=board and board.take_seat())
        gate = open_gate(core, stack, on_fault=end_process)
        manage = management(core, gate.metrics)
        traced = _tracing(settings, core, stack)
        services = HttpServices(
            gatekeeper=gate.keeper,
            clock=core.clock,
            key_management=manage.keys,
            campaign_management=manage.campaigns,
            account_management=manage.accounts,
            notice_links=manage.notice_links,
            usage_reports=manage.usage_reports,
            webhook_management=manage.webhooks,
            health=PostgresHealth(core.database, gate.verified, gate.takes_rows),
            cursors=core.ring,
            new_request_id=gate.new_request_id,
            log_request=_request_line(settings, gate.metrics, stack),
            metrics_door=MetricsDoor(PostgresMetrics(core.database).scrape, settings.metrics_networks),
            trusted_proxies=settings.trusted_proxies,
            body_bytes_max=settings.body_bytes_max,
            close=stack.pop_all().close,
        )
        app = create_app(services)
        if traced is None:
            answer_ahead(create_quick(services))
        else:  # every request gets its span, so none goes past that layer
            app = traced(app)
        spare_long_lived_objects()
        take_short_turns()
        return app


def _tracing(settings: Settings, core: Core, stack: ExitStack) -> Callable[[ASGIApp], ASGIApp] | None:
    """What puts the layer of traces around an application; None where none are wanted."""
    receiver = settings.traces
    if receiver is None:
        return None
    traces = stack.enter_context(OtlpTraces(receiver, instance=core.entropy.new(RunId)))
    return lambda app: Traced(
        app,
        traces=traces,
        ratio=receiver.ratio,
        entropy=core.entropy,
        clock=core.clock,
        trusted_proxies=settings.trusted_proxies,
    )


def _request_line(settings: Settings, metrics: Metrics, stack: ExitStack) -> RequestLine:
    stream = None if settings.log_format == "console" else sys.stderr.buffer
    return stack.enter_context(RequestLog(count=metrics.count_requests, stream=stream, service="serve")).write
