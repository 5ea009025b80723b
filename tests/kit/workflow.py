"""A scheduler in this process: what the background process does, by a clock that is set, and crashing when told to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from application.deadlines import Deadlines
from application.ledger import Ledger
from application.ports import Clock
from application.rotation import RotationWorkflow
from application.usage_ports import UsageStats
from application.webhook_failure import WebhookFailureWorkflow
from application.workflow import Workflow, WorkflowEngine
from domain.workflow import Process
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder, View
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import PostgresUsage, UsageTotals
from infrastructure.postgres.webhooks import WebhooksView
from infrastructure.postgres.workflow import PostgresProcesses, PostgresProgress, PostgresTimers, WorkflowView
from tests.kit.builders import CountingEntropy

VIEWS: tuple[Callable[[], View], ...] = (AccountsView, KeysView, WebhooksView, UsageTotals, WorkflowView)


class Crashed(BaseException):
    """The process is gone: nothing that catches exceptions catches this."""


def _never(edge: str) -> bool:
    del edge
    return False


@dataclass(slots=True)
class CrashingBoundary:
    """The port `Boundary`: asks at each edge of a commit whether to crash there, and remembers what failed."""

    crashes: Callable[[str], bool] = field(default=_never)
    failures: list[str] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)

    def before_commit(self, process: Process) -> None:
        """Crashes with nothing in the ledger."""
        if self.crashes(f"before {process.id} v{process.version}"):
            raise Crashed

    def after_commit(self, process: Process) -> None:
        """Crashes with all of it in the ledger."""
        if self.crashes(f"after {process.id} v{process.version}"):
            raise Crashed

    def failed(self, process_id: str, error: Exception) -> None:
        """Remembers it."""
        self.failures.append(f"{process_id}: {error}")

    def stopped(self, workflow: str, position: int, error: Exception) -> None:
        """Remembers where."""
        del workflow, error
        self.stops.append(position)


def open_ledger(database: Database) -> Ledger:
    """A ledger with the views that schedulers and owners act upon."""
    return Ledger(PostgresLedgerFactory(PostgresRecorder(database, [view() for view in VIEWS])))


class Scheduler:
    """The deadlines and the workflow engine on one database."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        boundary: CrashingBoundary | None = None,
        workflows: Callable[[Ledger], Sequence[Workflow]] | None = None,
    ) -> None:
        self.ledger = open_ledger(database)
        self.usage: UsageStats = PostgresUsage(database)
        self.boundary = boundary or CrashingBoundary()
        entropy = CountingEntropy()
        processes = PostgresProcesses(database)
        rotation = RotationWorkflow(ledger=self.ledger, usage=self.usage, successors=processes)
        failures = WebhookFailureWorkflow(ledger=self.ledger)
        self.deadlines = Deadlines(ledger=self.ledger, due=PostgresKeys(database), clock=clock, entropy=entropy)
        self.engine = WorkflowEngine(
            ledger=self.ledger,
            workflows=(rotation, failures) if workflows is None else workflows(self.ledger),
            progress=PostgresProgress(database),
            timers=PostgresTimers(database),
            clock=clock,
            entropy=entropy,
            boundary=self.boundary,
        )

    def sweep(self) -> None:
        """One round of all that the leader does about keys and processes."""
        self.deadlines.begin_grace()
        self.deadlines.retire()
        self.deadlines.expire()
        self.deadlines.flag_rotation()
        self.engine.run()
