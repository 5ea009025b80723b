"""A process: work that goes on for days, as events, so that it stands where it stood after any crash.

``running → stuck ⇄ running``, ``→ cancelled``, and ``→ ended`` when its own last step says so. A process is looked at
when something happened or a timer fell due; a look compares what should have been done by now with what is on record,
records what is missing, and says when to look again. So a look that is repeated, or comes late, does no harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import EllipsisType
from typing import Any, ClassVar

from domain.errors import ConflictError
from domain.events import Aggregate, Event, Origin

RETRIES = tuple(timedelta(seconds=seconds) for seconds in (5, 60, 600, 3600, 6 * 3600))
RETRY = "retry"
RESUME = "resume"


class ProcessState(StrEnum):
    """Whether the engine looks at a process."""

    RUNNING = "running"
    STUCK = "stuck"
    CANCELLED = "cancelled"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Timer:
    """The process is to be looked at when ``due_at`` has come; ``step`` says what for, to people."""

    step: str
    due_at: datetime


@dataclass(frozen=True)
class StepTaken(Event):
    """A step of one kind of process; ``step`` is where the process stands from now on."""

    ENDS: ClassVar[bool] = False
    """Whether nothing follows it."""

    step: str

    @property
    def subject(self) -> str:
        """The id of what the process is about."""
        raise NotImplementedError

    @property
    def awaits(self) -> str | EllipsisType | None:
        """The key whose first use the process waits for from now on; None: of none; an Ellipsis: as before."""
        return ...

    def apply(self, aggregate: Any) -> None:
        """Takes the step."""
        aggregate.step = self.step
        if self.ENDS:
            aggregate.state = ProcessState.ENDED


@dataclass(frozen=True)
class Scheduled(Event):
    """When the process is to be looked at; these timers replace all that there were."""

    TOPIC: ClassVar[str] = "workflow.scheduled"

    timers: tuple[Timer, ...]

    def apply(self, aggregate: "Process") -> None:
        """Takes the timers."""
        aggregate.timers = self.timers


@dataclass(frozen=True)
class StepFailed(Event):
    """A look failed, for the ``attempt``-th time in a row; it is tried again by a timer. ``error`` holds no secret."""

    TOPIC: ClassVar[str] = "workflow.step_failed"

    attempt: int
    error: str

    def apply(self, aggregate: "Process") -> None:
        """Counts it."""
        aggregate.failures = self.attempt
        aggregate.error = self.error


@dataclass(frozen=True)
class Recovered(Event):
    """The look that had failed went well."""

    TOPIC: ClassVar[str] = "workflow.recovered"

    def apply(self, aggregate: "Process") -> None:
        """Forgets the failures."""
        aggregate.failures = 0
        aggregate.error = None


@dataclass(frozen=True)
class Stuck(Event):
    """A look failed for the last time: nothing more happens until somebody resumes the process."""

    TOPIC: ClassVar[str] = "workflow.stuck"

    attempts: int
    error: str

    def apply(self, aggregate: "Process") -> None:
        """Stops the process."""
        aggregate.failures = self.attempts
        aggregate.error = self.error
        aggregate.state = ProcessState.STUCK


@dataclass(frozen=True)
class Resumed(Event):
    """Somebody resumed a process that was stuck."""

    TOPIC: ClassVar[str] = "workflow.resumed"

    def apply(self, aggregate: "Process") -> None:
        """Lets the process run."""
        aggregate.failures = 0
        aggregate.error = None
        aggregate.state = ProcessState.RUNNING


@dataclass(frozen=True)
class Cancelled(Event):
    """Somebody ended the process before its time; what it has done stays done."""

    TOPIC: ClassVar[str] = "workflow.cancelled"

    def apply(self, aggregate: "Process") -> None:
        """Ends the process."""
        aggregate.state = ProcessState.CANCELLED


class Process(Aggregate, topic="process"):
    """What all processes share; each kind adds its own events and its ``look``."""

    timers: tuple[Timer, ...] = ()
    failures: int = 0
    error: str | None = None
    state: ProcessState = ProcessState.RUNNING
    step: str = ""

    def schedule(self, timers: Sequence[Timer], *, by: Origin) -> None:
        """Sets when to look again; the same timers record nothing."""
        wanted = tuple(sorted(timers, key=lambda timer: (timer.due_at, timer.step)))
        if wanted != self.timers:
            self.record(Scheduled, by=by, timers=wanted)

    def fail(self, error: str, *, retry_after: timedelta | None, by: Origin) -> None:
        """Puts a failed look on record; with None for ``retry_after`` the process is stuck. Only while it runs."""
        if self.state is not ProcessState.RUNNING:
            return
        attempt = self.failures + 1
        if retry_after is None:
            self.record(Stuck, by=by, attempts=attempt, error=error)
            self.schedule((), by=by)
        else:
            self.record(StepFailed, by=by, attempt=attempt, error=error)
            self.schedule((Timer(RETRY, by.at + retry_after),), by=by)

    def recover(self, *, by: Origin) -> None:
        """Puts on record that a look went well again; without a failure before it, nothing."""
        if self.state is ProcessState.RUNNING and self.failures:
            self.record(Recovered, by=by)

    def resume(self, *, by: Origin) -> None:
        """Lets a stuck process go on, from where it stood; one that runs is looked at now.

        ConflictError when it has ended or was cancelled.
        """
        if self.state in {ProcessState.CANCELLED, ProcessState.ENDED}:
            raise ConflictError(f"The process is {self.state}, and does not go on")
        if self.state is ProcessState.STUCK:
            self.record(Resumed, by=by)
        if self.state is ProcessState.RUNNING:
            others = [timer for timer in self.timers if timer.step != RESUME]
            self.schedule((*others, Timer(RESUME, by.at)), by=by)

    def cancel(self, *, by: Origin) -> None:
        """Ends the process for ever; one that has ended stays as it is."""
        if self.state in {ProcessState.RUNNING, ProcessState.STUCK}:
            self.record(Cancelled, by=by)
            self.schedule((), by=by)
