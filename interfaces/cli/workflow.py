"""`keyledger workflow`: where processes stand, and a hand for those that are stuck."""

from argparse import Namespace
from datetime import datetime
from typing import Self

import msgspec

from application.workflow_ports import ProcessView
from domain.errors import NotFoundError
from domain.workflow import ProcessState
from interfaces.cli.exits import Exit
from interfaces.cli.paging import limit_of, show_page
from interfaces.cli.render import as_json, fields
from interfaces.cli.session import Operator, operator
from interfaces.cli.terminal import say, write
from interfaces.http.paging import Pager
from interfaces.settings import Settings

UNKNOWN_PROCESS = "No such process"


class TimerBody(msgspec.Struct):
    """When the process is looked at, and what for."""

    step: str
    due_at: datetime


class ProcessBody(msgspec.Struct):
    """A process. ``subject``: what it is about, as the key of a rotation; ``error``: of its last failure in a row."""

    id: str
    workflow: str
    account_id: str | None
    subject: str
    step: str
    state: ProcessState
    failures: int
    error: str | None
    began_at: datetime
    changed_at: datetime
    timers: list[TimerBody]

    @classmethod
    def of(cls, view: ProcessView) -> Self:
        """The body of a process."""
        return cls(
            id=view.process_id,
            workflow=view.workflow,
            account_id=view.account_id,
            subject=view.subject,
            step=view.step,
            state=view.state,
            failures=view.failures,
            error=view.error,
            began_at=view.began_at,
            changed_at=view.changed_at,
            timers=[TimerBody(timer.step, timer.due_at) for timer in view.timers],
        )

    @property
    def next_at(self) -> datetime | None:
        """When it is looked at next."""
        return min((timer.due_at for timer in self.timers), default=None)


def list_all(arguments: Namespace, settings: Settings) -> int:
    """Processes, the last begun first."""
    limit = limit_of(arguments)
    state = None if arguments.state is None else ProcessState(arguments.state)
    workflow: str | None = arguments.workflow
    with operator(settings) as op:
        pager = Pager(op.cursors, listing=f"processes {state} {workflow}")
        views = op.manage.processes.page(
            state=state, workflow=workflow, before=pager.position(arguments.cursor), limit=limit + 1
        )
        show_page(
            arguments,
            [ProcessBody.of(view) for view in views],
            pager=pager,
            positions=[view.began_position for view in views],
            columns={
                "id": lambda process: process.id,
                "workflow": lambda process: process.workflow,
                "subject": lambda process: process.subject,
                "state": lambda process: process.state,
                "step": lambda process: process.step,
                "changed at": lambda process: process.changed_at,
                "next at": lambda process: process.next_at,
                "failures": lambda process: process.failures,
                "error": lambda process: process.error,
            },
        )
    return Exit.OK


def show(arguments: Namespace, settings: Settings) -> int:
    """One process."""
    with operator(settings) as op:
        _write(arguments, op)
    return Exit.OK


def resume(arguments: Namespace, settings: Settings) -> int:
    """Lets a stuck process go on. ConflictError when it has ended or was cancelled."""
    with operator(settings) as op:
        _found(op, arguments.id)
        op.manage.workflows.resume(arguments.id, by=op.origin)
        _write(arguments, op)
        say(f"{arguments.id} is looked at by the background process within seconds")
    return Exit.OK


def cancel(arguments: Namespace, settings: Settings) -> int:
    """Ends a process before its time."""
    with operator(settings) as op:
        _found(op, arguments.id)
        op.manage.workflows.cancel(arguments.id, by=op.origin)
        _write(arguments, op)
    return Exit.OK


def _found(op: Operator, process_id: str) -> ProcessView:
    view = op.manage.processes.find(process_id)
    if view is None:
        raise NotFoundError(UNKNOWN_PROCESS)
    return view


def _write(arguments: Namespace, op: Operator) -> None:
    body = ProcessBody.of(_found(op, arguments.id))
    write(as_json(body) if arguments.json else fields(body))
