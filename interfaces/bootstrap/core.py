"""What every process builds first: its logging, its secrets, the pool, the ledger with its views."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from application.ledger import Ledger
from domain.attempt_limit import AttemptLimit
from domain.errors import UnavailableError
from infrastructure.board import Seat
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder, View
from infrastructure.hashing import BcryptVerifier, SecretFileError, SecretRing, load_or_create
from infrastructure.observability import assert_redacting, configure_logging
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.attempts import PostgresAttempts
from infrastructure.postgres.campaigns import CampaignsView
from infrastructure.postgres.clock import ask_time
from infrastructure.postgres.freshness import DatabaseClock
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from infrastructure.postgres.root_secrets import PostgresRootSecrets
from infrastructure.postgres.usage import PostgresUsage, UsageHistory, UsageTotals
from infrastructure.postgres.webhooks import WebhooksView
from infrastructure.postgres.workflow import WorkflowView
from infrastructure.system import SystemClock, SystemEntropy, end_with_parent
from interfaces.settings import SettingError, Settings

SECRET_FILE = "secret.keys"  # noqa: S105 - a file's name


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
    seat: Seat | None
    """At the board of its server; None outside one."""


def start_logging(settings: Settings, *, service: str) -> None:
    """One chain for everything that this process says, redacted last; refuses to go on if it does not redact."""
    configure_logging(format=settings.log_format, level="info", service=service)
    assert_redacting()


def tie_to_parent(parent: int | None = None) -> None:
    """Ends this process when the one that started it is gone, so that a killed service leaves nothing serving.

    ``parent``: its process id; without it a parent that went before this call is not missed.
    """
    end_with_parent(parent)


def secret_file(settings: Settings) -> Path:
    """Where the embedded mode keeps its root secrets."""
    return settings.data_dir / SECRET_FILE


def _secrets(settings: Settings, entropy: SystemEntropy, seen: PostgresRootSecrets) -> SecretRing:
    """Of this database; SettingError for others, under which each of its keys would be refused."""
    try:
        ring = _given_secrets(settings, entropy, seen)
    except (ValueError, SecretFileError) as error:
        raise SettingError(f"KEYLEDGER_SECRET_KEYS: {error}") from error
    # Without the database nobody is accepted anyway, and a host of the middleware may start before it, or its tables.
    with suppress(UnavailableError):
        if not seen.accept(ring.fingerprints):
            raise SettingError("KEYLEDGER_SECRET_KEYS: the keys of this database were made under other root secrets")
    return ring


def _given_secrets(settings: Settings, entropy: SystemEntropy, seen: PostgresRootSecrets) -> SecretRing:
    if settings.secret_keys:
        return SecretRing.from_texts(settings.secret_keys)
    if settings.database_url is not None:
        raise SettingError("KEYLEDGER_SECRET_KEYS must be set with a database of your own")
    path = secret_file(settings)
    if not path.exists() and seen.are_known():
        raise SecretFileError(f"{path} is missing, and the keys of this database were made under it: put it back")
    return load_or_create(path, entropy)


def immediate_views() -> tuple[View, ...]:
    """The read models that each append writes in its own transaction."""
    return AccountsView(), KeysView(), CampaignsView(), WebhooksView(), UsageTotals(), WorkflowView()


def following_views() -> tuple[View, ...]:
    """The read models that the tailer keeps."""
    return (UsageHistory(),)


def open_core(settings: Settings, conninfo: str, stack: ExitStack, *, seat: Seat | None = None) -> Core:
    """The parts that every process needs, on a migrated database."""
    entropy = SystemEntropy()
    database = stack.enter_context(Database(conninfo, size_max=settings.database_connections))
    ring = _secrets(settings, entropy, PostgresRootSecrets(database))
    clock = DatabaseClock(SystemClock().now)
    recorder = PostgresRecorder(database, immediate_views(), seat)
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
        seat=seat,
    )


def set_clock(core: Core) -> None:
    """Sets the clock to the database's: whoever acts without a lease and without the lead does so before anything.

    UnavailableError: nothing may be judged by this machine's time instead.
    """
    ask_time(core.database, core.clock.set)


def attempts(core: Core) -> PostgresAttempts:
    """The failed attempts of all processes."""
    return PostgresAttempts(core.database, AttemptLimit(attempts=core.settings.failed_attempts_per_minute))
