"""The workflow engine: every process is looked at when something happens to it, and each reaction takes effect once.

A workflow says what it is ``interested`` in, ``begins`` a process where there is none, and ``reacts``: it gathers the
facts, has the process record what should have been done by now, and carries out the commands that go with it. The
process's events and the commands' are appended together, so a crash before that leaves nothing and a crash after it a
reaction that, repeated, finds nothing to do. Of two engines that react at once one wins the version, and the other
looks again. A reaction that fails is tried again by timer, as data; then the process is stuck until it is resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from application.ledger import Ledger, UnknownAggregateError, retried
from application.ports import Clock, Entropy
from application.workflow_ports import Progress, Timers
from domain.errors import UnavailableError
from domain.events import Aggregate, Event, Origin
from domain.ids import RequestId
from domain.workflow import Process, ProcessState

BATCH = 500
ACTOR = "system:workflow"
ERROR_CHARACTERS_MAX = 300


class Workflow(Protocol):
    """One kind of process."""

    @property
    def name(self) -> str: ...  # noqa: D102 - of the workflow, as people see it
    @property
    def kind(self) -> type[Process]: ...  # noqa: D102 - of its processes
    @property
    def topics(self) -> frozenset[str]: ...  # noqa: D102 - of the events that it asks for; others are passed over unread

    def interested(self, event: Event) -> str | None:
        """The id of the process that the event is about, always the same one; None: it is about none."""
        ...

    def begin(self, event: Event, *, by: Origin) -> Process | None:
        """A new process, where the event's has none; None: the event begins none."""
        ...

    def react(self, process: Process, *, by: Origin) -> Sequence[Aggregate]:
        """Looks at the process as of now, and answers the other aggregates that it has commanded.

        Repeated without news it records nothing. Whatever it raises is a failed reaction.
        """
        ...

    def occasions(self) -> Sequence[str]:
        """Processes to be looked at for what no event tells; none again once they were looked at."""
        ...

    def on_failure(self, attempt: int) -> timedelta | None:
        """How long to wait after the ``attempt``-th failure in a row; None: the process is stuck."""
        ...


class Boundary(Protocol):
    """Told at the edges of each reaction's commit: where a crash would fall, and what is worth counting."""

    def before_commit(self, process: Process) -> None:
        """Nothing of the reaction is in the ledger."""
        ...

    def after_commit(self, process: Process) -> None:
        """All of it is."""
        ...

    def failed(self, process_id: str, error: Exception) -> None:
        """The reaction raised, and is on record as failed."""
        ...

    def stopped(self, workflow: str, position: int, error: Exception) -> None:
        """The workflow stands still before that event, and tries it again and again."""
        ...


class WorkflowEngine:
    """Follows the ledger and the timers for all workflows; any number may run beside each other."""

    def __init__(  # noqa: PLR0913 - the ports it stands on
        self,
        *,
        ledger: Ledger,
        workflows: Sequence[Workflow],
        progress: Progress,
        timers: Timers,
        clock: Clock,
        entropy: Entropy,
        boundary: Boundary,
    ) -> None:
        self._ledger = ledger
        self._workflows = tuple(workflows)
        self._of_kind: Mapping[type[Process], Workflow] = {workflow.kind: workflow for workflow in workflows}
        self._progress = progress
        self._timers = timers
        self._clock = clock
        self._entropy = entropy
        self._boundary = boundary

    def catch_up(self) -> bool:
        """One batch of the ledger for each workflow; whether any of them moved."""
        moved = [self._follow(workflow) for workflow in self._workflows]
        return any(moved)

    def run(self) -> int:
        """Follows the ledger to its end, then looks at all that is due; how many processes were due."""
        while self.catch_up():
            pass
        return self.run_due()

    def run_due(self) -> int:
        """Looks at every process whose time has come, or for which something happened that no event tells."""
        looked = 0
        while due := self._timers.take(self._clock.now(), BATCH):
            for process_id in due:
                self._look(process_id)
            looked += len(due)
        for workflow in self._workflows:
            for process_id in workflow.occasions():
                self._look(process_id)
                looked += 1
        return looked

    def _follow(self, workflow: Workflow) -> bool:
        began = done = self._progress.position(workflow.name)
        problem: Exception | None = None
        try:
            for position, event in self._ledger.read(after=began, limit=BATCH, topics=workflow.topics):
                if event is not None and (process_id := workflow.interested(event)) is not None:
                    self._react(workflow, process_id, event)
                done = position
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one event breaks must stop this workflow and no other
            problem = error
        if done > began:
            self._progress.move(workflow.name, done)
        if problem is not None:
            self._boundary.stopped(workflow.name, done + 1, problem)
            self._progress.stop(workflow.name, f"at position {done + 1}: {_text(problem)}")
        return done > began

    def _look(self, process_id: str) -> None:
        try:
            process = self._ledger.load(Process, process_id)
            self._react(self._of_kind[type(process)], process_id, None)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one that cannot even be read must not keep the others waiting
            self._boundary.failed(process_id, error)

    def _react(self, workflow: Workflow, process_id: str, event: Event | None) -> None:
        def reaction() -> None:
            by = self._origin()
            process = self._load(workflow, process_id, event, by)
            if process is None or process.state is not ProcessState.RUNNING:
                return
            if event is not None and process.failures:
                return  # its timer tries again, and will see what the event tells
            process.recover(by=by)
            changed = workflow.react(process, by=by)
            self._commit(process, *changed)

        try:
            retried(reaction)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a process that fails is on record, and others go on
            self._fail(workflow, process_id, event, error)

    def _fail(self, workflow: Workflow, process_id: str, event: Event | None, error: Exception) -> None:
        def failure() -> None:
            by = self._origin()
            process = self._load(workflow, process_id, event, by)
            if process is not None:
                retry_after = workflow.on_failure(process.failures + 1)
                process.fail(_text(error), retry_after=retry_after, by=by)
                self._commit(process)

        retried(failure)
        self._boundary.failed(process_id, error)

    def _load(self, workflow: Workflow, process_id: str, event: Event | None, by: Origin) -> Process | None:
        try:
            return self._ledger.load(workflow.kind, process_id)
        except UnknownAggregateError:
            return None if event is None else workflow.begin(event, by=by)

    def _commit(self, *changed: Aggregate) -> None:
        process = changed[0]
        if not isinstance(process, Process) or not any(aggregate.pending_events for aggregate in changed):
            return
        self._boundary.before_commit(process)
        self._ledger.append(*changed)
        self._boundary.after_commit(process)

    def _origin(self) -> Origin:
        return Origin(ACTOR, RequestId.from_entropy(self._entropy.bytes(16)), self._clock.now())


class WorkflowManagement:
    """What an operator does with processes: resume what is stuck, cancel what is not wanted."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger

    def resume(self, process_id: str, *, by: Origin) -> None:
        """Lets a stuck process go on; one that runs is looked at within seconds.

        UnknownAggregateError; ConflictError when it has ended or was cancelled.
        """
        self._change(process_id, lambda process: process.resume(by=by))

    def cancel(self, process_id: str, *, by: Origin) -> None:
        """Ends a process before its time; what it has done stays. UnknownAggregateError."""
        self._change(process_id, lambda process: process.cancel(by=by))

    def _change(self, process_id: str, command: Callable[[Process], None]) -> None:
        self._ledger.change(Process, process_id, command)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
