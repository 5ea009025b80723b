"""What the workflow engine needs from outside; infrastructure supplies it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.workflow import ProcessState, Timer


class Progress(Protocol):
    """How far each workflow has followed the ledger. Nothing but the engine moves it, and nothing moves it back."""

    def position(self, workflow: str) -> int:
        """The last position that was reacted to; 0 before the first."""
        ...

    def move(self, workflow: str, position: int) -> None:
        """Takes the position, unless another has gone further already; forgets an error."""
        ...

    def stop(self, workflow: str, error: str) -> None:
        """Says why the workflow stands still."""
        ...


class Timers(Protocol):
    """When processes are to be looked at; rows follow from the processes' own events."""

    def take(self, now: datetime, limit: int) -> Sequence[str]:
        """Processes with a timer due at ``now``, the longest due first, that nobody else has taken.

        They are the caller's for half a minute by the same clock; whoever looks at one then has recorded so, which
        replaces its timers, or has died, and another may take it.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A process as the operator lists it. ``subject`` is what it is about, as the key of a rotation.

    ``began_position``: the order of listings. ``next_at`` None: nothing is scheduled.
    """

    process_id: str
    workflow: str
    account_id: str | None
    subject: str
    step: str
    state: ProcessState
    failures: int
    error: str | None
    began_at: datetime
    changed_at: datetime
    began_position: int
    timers: tuple[Timer, ...]


class Processes(Protocol):
    """The processes' view: true in the database the moment an event commits."""

    def find(self, process_id: str) -> ProcessView | None:
        """One process; None when there is none."""
        ...

    def page(
        self, *, state: ProcessState | None, workflow: str | None, before: int | None, limit: int
    ) -> Sequence[ProcessView]:
        """Processes that began before that position, newest first."""
        ...


class UsedSuccessors(Protocol):
    """What a rotation waits for and no event of its own key tells: what becomes of the successor."""

    def awaited(self, limit: int) -> Sequence[str]:
        """Rotations that run well and wait for the first use of a key that has been used, or was revoked.

        None of the latter whose own key ends all the same, or whose successor was rotated itself.
        """
        ...
