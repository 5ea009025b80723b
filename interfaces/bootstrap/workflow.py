"""The workflows, and the engine that runs them in the background process. A new workflow is named here."""

from collections.abc import Callable
from threading import Event as Flag

from application.rotation import RotationWorkflow
from application.successors import SuccessorHandover, Successors
from application.webhook_failure import WebhookFailureWorkflow
from application.workflow import Boundary, WorkflowEngine
from infrastructure.postgres.webhooks import PostgresWebhooks
from infrastructure.postgres.workflow import PostgresProcesses, PostgresProgress, PostgresTimers
from infrastructure.projections import follow_ledger
from infrastructure.workflow import LoggedBoundary
from interfaces.bootstrap.core import Core
from interfaces.bootstrap.management import management
from interfaces.bootstrap.outbox import webhook_carrier


def workflow_engine(core: Core, boundary: Boundary | None = None) -> WorkflowEngine:
    """The engine with every workflow."""
    rotation = RotationWorkflow(ledger=core.ledger, usage=core.usage, successors=PostgresProcesses(core.database))
    return WorkflowEngine(
        ledger=core.ledger,
        workflows=(rotation, WebhookFailureWorkflow(ledger=core.ledger)),
        progress=PostgresProgress(core.database),
        timers=PostgresTimers(core.database),
        clock=core.clock,
        entropy=core.entropy,
        boundary=boundary or LoggedBoundary(),
    )


def successors(core: Core, handover: SuccessorHandover | None = None) -> Successors:
    """What makes successors that nobody asks for, and hands them over."""
    return Successors(
        ledger=core.ledger,
        keys=management(core).keys,
        webhooks=PostgresWebhooks(core.database),
        handover=handover or webhook_carrier(core),
        awaited=PostgresProcesses(core.database),
        clock=core.clock,
        entropy=core.entropy,
    )


def workflow_follower(core: Core) -> dict[str, Callable[[Flag], None]]:
    """What follows the ledger for all workflows, until its flag is set."""
    engine = workflow_engine(core)

    def follow(stop: Flag) -> None:
        follow_ledger(core.database.conninfo, engine.catch_up, stop)

    return {"workflow": follow}
