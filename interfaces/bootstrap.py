"""The composition root: the one file that sees all four rings. Each part's close is registered as it is opened."""

import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event as Flag

import psycopg
from litestar.types import ASGIApp
from psycopg.conninfo import conninfo_to_dict

from application.accounts import AccountManagement
from application.attempts import AttemptLimiter
from application.authentication import Authenticator
from application.campaigns import CampaignManagement
from application.deadlines import Deadlines
from application.imported_keys import BCRYPT_PLACES, READS_AT_ONCE
from application.imports import KeyImport
from application.keys import KeyManagement
from application.ledger import Ledger
from application.retention import Retention
from application.suspicions import Suspicions
from application.usage import Settlement
from application.usage_reports import UsageReports
from application.verified_keys import VerifiedKeys
from domain.attempt_limit import AttemptLimit
from domain.errors import UnavailableError
from domain.ids import RequestId, RunId
from infrastructure.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.hashing import BcryptVerifier, Fingerprints, SecretFileError, SecretRing, load_or_create
from infrastructure.metrics import Metrics
from infrastructure.observability import SERVER_LOGGING, assert_redacting, configure_logging
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.access_log_partitions import AccessLogPartitions
from infrastructure.postgres.accounts import AccountsView, PostgresAccounts
from infrastructure.postgres.attempts import PostgresAttempts
from infrastructure.postgres.campaigns import CampaignsView, PostgresCampaigns
from infrastructure.postgres.freshness import DatabaseClock, LedgerFollower, PostgresFreshness, elapsed
from infrastructure.postgres.health import PostgresHealth
from infrastructure.postgres.history import PostgresHistory
from infrastructure.postgres.imports import PostgresImports
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.metrics import MetricsTeller, PostgresMetrics
from infrastructure.postgres.migrate import MigrationError, migrate
from infrastructure.postgres.pool import Database
from infrastructure.postgres.refused_attempts import PostgresRefusedAttempts
from infrastructure.postgres.usage import PostgresSettlementRows, PostgresUsage, UsageHistory, UsageTotals
from infrastructure.postgres.usage_reports import PostgresUsageRows
from infrastructure.projections import Rebuilder, Tailer
from infrastructure.request_log import RequestLog
from infrastructure.scheduler import Job, Leader
from infrastructure.system import RequestIds, SystemClock, SystemEntropy, end_with_parent, spare_long_lived_objects
from interfaces.http.app import HttpServices, create_app
from interfaces.http.edge import RequestLine
from interfaces.http.gate import Gatekeeper
from interfaces.http.metrics import MetricsDoor
from interfaces.http.request import address_text
from interfaces.settings import SettingError, Settings

__all__ = [
    "SERVER_LOGGING", "Core", "Management", "OpenGate", "http_app", "jobs", "management", "migrate_database",
    "open_core", "open_database", "open_gate", "run_background", "secret_file", "start_logging", "tie_to_parent",
]  # fmt: skip

SECRET_FILE = "secret.keys"  # noqa: S105 - a file's name
ERROR_CHARACTERS_MAX = 1000
SWEEP_EVERY = timedelta(seconds=2)
FORGET_EVERY = timedelta(minutes=1)
LIMITER_THREADS = 2
FOREIGN_THREADS = BCRYPT_PLACES + READS_AT_ONCE
PARTITIONS_EVERY = timedelta(hours=1)
RETENTION_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Core:
    """What every process of the service builds first."""

    settings: Settings
    clock: DatabaseClock
    entropy: SystemEntropy
    ring: SecretRing
    verifiers: BcryptVerifier
    database: Database
    recorder: PostgresRecorder
    ledger: Ledger
    keys: PostgresKeys
    usage: PostgresUsage


@dataclass(frozen=True, slots=True)
class Management:
    """What people do with the service, for the HTTP layer and the command line alike."""

    keys: KeyManagement
    imports: KeyImport
    accounts: AccountManagement
    campaigns: CampaignManagement
    usage_reports: UsageReports
    rebuilder: Rebuilder
    new_request_id: Callable[[], RequestId]
    clock: DatabaseClock


def start_logging(settings: Settings, *, service: str) -> None:
    """One chain for everything that this process says, redacted last; refuses to go on if it does not redact."""
    configure_logging(format=settings.log_format, level="info", service=service)
    assert_redacting()


def tie_to_parent(parent: int | None = None) -> None:
    """Ends this process when the one that started it is gone, so that a killed service leaves nothing serving.

    ``parent``: its process id; without it a parent that went before this call is not missed.
    """
    end_with_parent(parent)


def open_database(settings: Settings, stack: ExitStack) -> tuple[str, EmbeddedPostgres | None]:
    """The conninfo of the database that was given, or of the embedded one, started when it does not run.

    Raises SettingError for a URL or a directory that cannot be used, UnavailableError when PostgreSQL does not start.
    """
    if settings.database_url is not None:
        try:
            conninfo_to_dict(settings.database_url)
        except psycopg.ProgrammingError:
            # Without the cause: it repeats the URL, password included.
            raise SettingError("KEYLEDGER_DATABASE_URL is neither a libpq URL nor a conninfo") from None
        return settings.database_url, None
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        embedded = stack.enter_context(EmbeddedPostgres(settings.data_dir))
    except OSError as error:
        raise SettingError(f"KEYLEDGER_DATA_DIR: {settings.data_dir} cannot be used: {error.strerror}") from error
    except EmbeddedPostgresError as error:
        raise UnavailableError(_in_one_line(error)) from error
    return embedded.conninfo, embedded


def keep_running(embedded: EmbeddedPostgres | None) -> None:
    """Starts the embedded PostgreSQL again where it has ended; UnavailableError when it cannot be."""
    if embedded is None:
        return
    try:
        embedded.ensure_running()
    except EmbeddedPostgresError as error:
        raise UnavailableError(_in_one_line(error)) from error


def _in_one_line(error: EmbeddedPostgresError) -> str:
    return "; ".join(str(error).split("\n"))[:ERROR_CHARACTERS_MAX]


def migrate_database(conninfo: str) -> list[str]:
    """Brings the schema to this release; the names of the migrations applied. UnavailableError when it cannot."""
    try:
        return migrate(conninfo)
    except MigrationError as error:
        raise UnavailableError(str(error)) from error
    except psycopg.Error as error:
        what = error.diag.message_primary if error.sqlstate else None
        # Only what the server or the system said: the rest of libpq's text repeats parts of the conninfo.
        refusal = re.search(r"connection to server .* failed: (.+)", str(error))
        what = what or (refusal.group(1) if refusal else "no connection")
        raise UnavailableError(f"The database cannot be used: {what}") from error


def secret_file(settings: Settings) -> Path:
    """Where the embedded mode keeps its root secrets."""
    return settings.data_dir / SECRET_FILE


def _secrets(settings: Settings, entropy: SystemEntropy) -> SecretRing:
    try:
        if settings.secret_keys:
            return SecretRing.from_texts(settings.secret_keys)
        if settings.database_url is None:
            return load_or_create(secret_file(settings), entropy)
    except (ValueError, SecretFileError) as error:
        raise SettingError(f"KEYLEDGER_SECRET_KEYS: {error}") from error
    raise SettingError("KEYLEDGER_SECRET_KEYS must be set with a database of your own")


def open_core(settings: Settings, conninfo: str, stack: ExitStack) -> Core:
    """The parts that every process needs, on a migrated database."""
    entropy = SystemEntropy()
    ring = _secrets(settings, entropy)
    database = stack.enter_context(Database(conninfo, size_max=settings.database_connections))
    clock = DatabaseClock(SystemClock().now)
    recorder = PostgresRecorder(database, [AccountsView(), KeysView(), CampaignsView(), UsageTotals()])
    ledger = Ledger(PostgresLedgerFactory(recorder))
    return Core(
        settings=settings,
        clock=clock,
        entropy=entropy,
        ring=ring,
        verifiers=BcryptVerifier(settings.bcrypt_cost),
        database=database,
        recorder=recorder,
        ledger=ledger,
        keys=PostgresKeys(database),
        usage=PostgresUsage(database),
    )


def management(core: Core) -> Management:
    """The use cases that change things."""
    cache = PostgresFreshness(core.database)
    return Management(
        keys=KeyManagement(
            ledger=core.ledger,
            keys=core.keys,
            usage=core.usage,
            history=PostgresHistory(core.database),
            cache=cache,
            hashes=core.ring,
            verifiers=core.verifiers,
            entropy=core.entropy,
            clock=core.clock,
        ),
        imports=KeyImport(
            ledger=core.ledger, imports=PostgresImports(core.database), cache=cache, entropy=core.entropy
        ),
        accounts=AccountManagement(
            ledger=core.ledger, accounts=PostgresAccounts(core.database), cache=cache, entropy=core.entropy
        ),
        campaigns=CampaignManagement(
            ledger=core.ledger, campaigns=PostgresCampaigns(core.database), entropy=core.entropy
        ),
        usage_reports=UsageReports(keys=core.keys, rows=PostgresUsageRows(core.database), clock=core.clock),
        rebuilder=Rebuilder(
            core.database,
            core.recorder,
            [AccountsView(), KeysView(), CampaignsView(), UsageTotals()],
            [UsageHistory()],
        ),
        new_request_id=RequestIds(core.entropy).new,
        clock=core.clock,
    )


def attempts(core: Core) -> PostgresAttempts:
    """The failed attempts of all processes."""
    return PostgresAttempts(core.database, AttemptLimit(attempts=core.settings.failed_attempts_per_minute))


@dataclass(frozen=True, slots=True)
class OpenGate:
    """What authenticates in one process, running."""

    keeper: Gatekeeper
    verified: VerifiedKeys
    metrics: Metrics
    new_request_id: Callable[[], str]


def open_gate(core: Core, stack: ExitStack) -> OpenGate:
    """Starts what authenticating in this process takes: memory and its follower, limiter, access log, threads."""
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
        )
    )
    verified = VerifiedKeys(
        capacity=settings.cache_keys, fingerprint=Fingerprints(core.entropy.bytes(32)).of, elapsed=elapsed
    )
    stack.enter_context(
        LedgerFollower(conninfo, keys=verified, clock=core.clock, lease=settings.lease, process_id=run_id, host=host)
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
            "keyledger_access_log_queue_rows": lambda: access_log.queued,
        },
        totals={"keyledger_key_lookups_total": lambda: authenticator.look_ups},
    )
    stack.enter_context(MetricsTeller(conninfo, metrics, process_id=run_id))
    return OpenGate(keeper, verified, metrics, RequestIds(core.entropy).text)


def http_app() -> ASGIApp:
    """The application of one serving process, built from its environment; granian calls this in each worker."""
    settings = Settings.read()
    start_logging(settings, service="serve")
    tie_to_parent()
    with ExitStack() as stack:
        conninfo, _ = open_database(settings, stack)
        core = open_core(settings, conninfo, stack)
        manage = management(core)
        gate = open_gate(core, stack)
        services = HttpServices(
            gatekeeper=gate.keeper,
            key_management=manage.keys,
            campaign_management=manage.campaigns,
            usage_reports=manage.usage_reports,
            health=PostgresHealth(core.database, gate.verified),
            cursors=core.ring,
            new_request_id=gate.new_request_id,
            log_request=_request_line(settings, gate.metrics, stack),
            metrics_door=MetricsDoor(PostgresMetrics(core.database).scrape, settings.metrics_networks),
            trusted_proxies=settings.trusted_proxies,
            body_bytes_max=settings.body_bytes_max,
            close=stack.pop_all().close,
        )
        app = create_app(services)
        spare_long_lived_objects()
        return app


def _request_line(settings: Settings, metrics: Metrics, stack: ExitStack) -> RequestLine:
    stream = None if settings.log_format == "console" else sys.stderr.buffer
    return stack.enter_context(RequestLog(count=metrics.count_requests, stream=stream, service="serve")).write


def jobs(core: Core) -> dict[str, Job]:
    """Everything that is done from time to time, by name; each may be run by hand, too, wherever the leader is."""
    settings, clock = core.settings, core.clock
    deadlines = Deadlines(ledger=core.ledger, due=core.keys, clock=clock, entropy=core.entropy)
    settlement = Settlement(
        ledger=core.ledger,
        rows=PostgresSettlementRows(core.database),
        entropy=core.entropy,
        window=settings.settlement_window,
    )
    partitions = AccessLogPartitions(core.database)
    retention = Retention(
        ledger=core.ledger, log=partitions, clock=clock, entropy=core.entropy, days=settings.access_log_days
    )
    suspicions = Suspicions(
        ledger=core.ledger,
        refused=PostgresRefusedAttempts(core.database),
        clock=clock,
        entropy=core.entropy,
        attack_threshold=settings.attack_threshold,
    )
    return {
        "settlement": Job(settings.settlement_window, lambda: settlement.settle(clock.now())),
        "retirement": Job(SWEEP_EVERY, deadlines.retire),
        "expiry": Job(SWEEP_EVERY, deadlines.expire),
        "rotation": Job(SWEEP_EVERY, deadlines.flag_rotation),
        "grace": Job(SWEEP_EVERY, deadlines.begin_grace),
        "attacks": Job(SWEEP_EVERY, suspicions.note_attacks),
        "presentations": Job(SWEEP_EVERY, suspicions.note_presented_after_end),
        "attempts": Job(FORGET_EVERY, lambda: attempts(core).forget(clock.now())),
        "partitions": Job(PARTITIONS_EVERY, lambda: partitions.ensure_partitions(days_ahead=7)),
        "retention": Job(RETENTION_EVERY, retention.purge),
    }


def run_background(settings: Settings, stop: Flag) -> None:
    """The background process: stands for leader, and leads the jobs and the tailer, until ``stop`` is set."""
    with ExitStack() as stack:
        conninfo, _ = open_database(settings, stack)
        core = open_core(settings, conninfo, stack)
        tailer = Tailer(core.database, core.recorder, [UsageHistory()])
        metrics = Metrics()
        stack.enter_context(MetricsTeller(conninfo, metrics, process_id=core.entropy.new(RunId)))
        Leader(conninfo, jobs=jobs(core), followers={"tailer": tailer.run}, count=metrics.count_job).run(stop)
