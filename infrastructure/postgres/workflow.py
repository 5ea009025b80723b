"""Processes on PostgreSQL: where each stands, its timers, and how far the engine has followed the ledger."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.workflow_ports import ProcessView
from domain.events import Event, FirstEvent
from domain.workflow import (
    Cancelled,
    ProcessState,
    Recovered,
    Resumed,
    Scheduled,
    StepFailed,
    StepTaken,
    Stuck,
    Timer,
)
from infrastructure.postgres.pool import Database

CLAIM = timedelta(seconds=30)


class WorkflowView:
    """The immediate view: a process's row and its timers, written in the transaction of its event.

    So a timer and the step that sets it are there together or not at all, and a look that is on record has taken its
    timer away.
    """

    name = "workflow"

    BEGIN = """
        INSERT INTO workflow.processes (
            process_id, workflow, account_id, subject, step, state, failures, error, awaits, began_at, changed_at,
            began_position, position
        ) VALUES (
            %(process_id)s, %(workflow)s, %(account_id)s, %(subject)s, %(step)s, 'running', 0, NULL, NULL, %(at)s,
            %(at)s, ledger.at(%(position)s), ledger.at(%(position)s)
        )
    """
    STEP = """
        UPDATE workflow.processes
        SET step = %(step)s, state = CASE WHEN %(ends)s THEN 'ended' ELSE state END,
            awaits = CASE WHEN %(keeps)s THEN awaits ELSE %(awaits)s END, changed_at = %(at)s,
            position = ledger.at(%(position)s)
        WHERE process_id = %(process_id)s
    """
    STAND = """
        UPDATE workflow.processes
        SET state = %(state)s, failures = %(failures)s, error = %(error)s, changed_at = %(at)s,
            position = ledger.at(%(position)s)
        WHERE process_id = %(process_id)s
    """
    FORGET_TIMERS = "DELETE FROM workflow.timers WHERE process_id = %(process_id)s"
    SET_TIMERS = """
        INSERT INTO workflow.timers (process_id, step, due_at)
        SELECT %(process_id)s, step, due_at FROM unnest(%(steps)s::text[], %(dues)s::timestamptz[]) AS t (step, due_at)
    """
    CLEAR = "DELETE FROM workflow.processes"
    CLEAR_TIMERS = "DELETE FROM workflow.timers"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what a process's event means."""
        values: dict[str, Any] = {
            "process_id": event.originator_id,
            "account_id": event.account_id,
            "at": event.timestamp,
            "position": position,
        }
        match event:
            case StepTaken():
                self._step(cursor, event, values)
            case Scheduled():
                cursor.execute(self.FORGET_TIMERS, values)
                dues = {
                    "steps": [timer.step for timer in event.timers],
                    "dues": [timer.due_at for timer in event.timers],
                }
                cursor.execute(self.SET_TIMERS, values | dues)
            case StepFailed():
                cursor.execute(self.STAND, values | _standing(ProcessState.RUNNING, event.attempt, event.error))
            case Stuck():
                cursor.execute(self.STAND, values | _standing(ProcessState.STUCK, event.attempts, event.error))
            case Recovered() | Resumed():
                cursor.execute(self.STAND, values | _standing(ProcessState.RUNNING, 0, None))
            case Cancelled():
                cursor.execute(self.STAND, values | _standing(ProcessState.CANCELLED, 0, None))
            case _:
                pass

    def _step(self, cursor: Cursor[TupleRow], event: StepTaken, values: dict[str, Any]) -> None:
        step = values | {"step": event.step}
        if isinstance(event, FirstEvent):
            cursor.execute(self.BEGIN, step | {"workflow": event.originator_topic, "subject": event.subject})
        keeps = isinstance(event.awaits, EllipsisType)
        awaits = {"keeps": keeps, "awaits": None if keeps else event.awaits}
        cursor.execute(self.STEP, step | awaits | {"ends": event.ENDS})

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row; how far the engine has come stays, it is no projection."""
        cursor.execute(self.CLEAR)
        cursor.execute(self.CLEAR_TIMERS)


def _standing(state: ProcessState, failures: int, error: str | None) -> dict[str, Any]:
    return {"state": state.value, "failures": failures, "error": error}


class PostgresTimers:
    """The port `Timers`."""

    # By the index timers_due. The claim commits at once: a look writes these rows from a transaction of its own.
    TAKE = """
        WITH due AS (
            SELECT process_id, step FROM workflow.timers
            WHERE due_at <= %(now)s AND claimed_until <= %(now)s
            ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE workflow.timers AS t SET claimed_until = %(until)s
            FROM due WHERE t.process_id = due.process_id AND t.step = due.step
            RETURNING t.process_id, t.due_at
        )
        SELECT process_id FROM taken GROUP BY process_id ORDER BY min(due_at), process_id
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, now: datetime, limit: int) -> Sequence[str]:
        """Processes with a timer due at ``now``, the caller's for half a minute."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.TAKE, {"now": now, "until": now + CLAIM, "limit": limit}).fetchall()
        return [process_id for (process_id,) in rows]


class PostgresProgress:
    """The port `Progress`. What a crash of PostgreSQL loses of it is gone through again; no reaction happens twice."""

    POSITION = "SELECT position FROM workflow.progress WHERE workflow = %(workflow)s"
    MOVE = """
        INSERT INTO workflow.progress AS p (workflow, position) VALUES (%(workflow)s, %(position)s)
        ON CONFLICT (workflow) DO UPDATE SET position = greatest(p.position, excluded.position), error = NULL
        RETURNING set_config('synchronous_commit', 'off', true)
    """
    STOP = """
        INSERT INTO workflow.progress (workflow, position, error) VALUES (%(workflow)s, 0, %(error)s)
        ON CONFLICT (workflow) DO UPDATE SET error = excluded.error
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, workflow: str) -> int:
        """The last position that was reacted to."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.POSITION, {"workflow": workflow}).fetchone()
        return 0 if row is None else row[0]

    def move(self, workflow: str, position: int) -> None:
        """Takes the position."""
        with self._database.cursor() as cursor:
            cursor.execute(self.MOVE, {"workflow": workflow, "position": position})

    def stop(self, workflow: str, error: str) -> None:
        """Says why the workflow stands still."""
        with self._database.cursor() as cursor:
            cursor.execute(self.STOP, {"workflow": workflow, "error": error})


class PostgresProcesses:
    """The ports `Processes`, `UsedSuccessors` and `AwaitedHandovers`."""

    FIND = """
        SELECT process_id, workflow, account_id, subject, step, state, failures, error, began_at, changed_at,
               began_position,
               (SELECT jsonb_agg(jsonb_build_array(t.step, t.due_at) ORDER BY t.due_at, t.step)
                FROM workflow.timers AS t WHERE t.process_id = p.process_id)
        FROM workflow.processes AS p WHERE process_id = %(process_id)s
    """
    PAGE = """
        SELECT process_id, workflow, account_id, subject, step, state, failures, error, began_at, changed_at,
               began_position,
               (SELECT jsonb_agg(jsonb_build_array(t.step, t.due_at) ORDER BY t.due_at, t.step)
                FROM workflow.timers AS t WHERE t.process_id = p.process_id)
        FROM workflow.processes AS p
        WHERE began_position < %(before)s AND (%(state)s::text IS NULL OR state = %(state)s)
          AND (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
        ORDER BY began_position DESC LIMIT %(limit)s
    """
    # By the index processes_awaiting: only rotations whose successor is unused are looked through. A look at what is
    # listed has it await nothing any more: so nothing whose hand-over goes on, and no key whose end is set; and no step
    # without a successor, which rows of the previous release may have after a hand-over that was given up.
    AWAITED = """
        SELECT process_id FROM (
            SELECT p.process_id, t.first_used_at AS at
            FROM workflow.processes AS p JOIN usage.totals AS t ON t.key_id = p.awaits
            WHERE p.awaits IS NOT NULL AND p.state = 'running' AND p.failures = 0
              AND p.step IN ('handover', 'overlap') AND t.first_used_at IS NOT NULL
            UNION
            SELECT p.process_id, s.revoked_at
            FROM workflow.processes AS p
            JOIN views.keys AS s ON s.key_id = p.awaits
            JOIN views.keys AS k ON k.key_id = p.subject AND k.replaced_by = s.key_id
            WHERE p.awaits IS NOT NULL AND p.state = 'running' AND p.failures = 0 AND p.step = 'overlap'
              AND s.revoked_at IS NOT NULL AND s.replaced_by IS NULL
              AND k.revoked_at IS NULL AND k.retires_at IS NULL
        ) AS news
        ORDER BY at LIMIT %(limit)s
    """

    # By the index timers_due; whether the engine has claimed the timer for a look does not matter. A rotation that was
    # cancelled has such a timer while a successor is to be taken back.
    HANDOVERS_DUE = """
        SELECT process_id FROM (
            SELECT DISTINCT ON (p.account_id) t.process_id, t.due_at
            FROM workflow.timers AS t JOIN workflow.processes AS p ON p.process_id = t.process_id
            WHERE t.due_at <= %(now)s AND t.step = 'hand over' AND p.state IN ('running', 'cancelled')
            ORDER BY p.account_id, t.due_at
        ) AS due
        ORDER BY due_at LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, process_id: str) -> ProcessView | None:
        """One process; None when there is none."""
        with self._database.cursor() as cursor:
            row = cursor.execute(self.FIND, {"process_id": process_id}).fetchone()
        return None if row is None else _process(row)

    def page(
        self, *, state: ProcessState | None, workflow: str | None, before: int | None, limit: int
    ) -> Sequence[ProcessView]:
        """Processes that began before that position, newest first."""
        parameters = {
            "state": None if state is None else state.value,
            "workflow": workflow,
            "before": 2**62 if before is None else before,
            "limit": limit,
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.PAGE, parameters).fetchall()
        return [_process(row) for row in rows]

    def awaited(self, limit: int) -> Sequence[str]:
        """Rotations that wait for the first use of a key that has been used, or was revoked."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.AWAITED, {"limit": limit}).fetchall()
        return [process_id for (process_id,) in rows]

    def handovers_due(self, now: datetime, limit: int) -> Sequence[str]:
        """One rotation of each account whose hand-over is due, the longest due first."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.HANDOVERS_DUE, {"now": now, "limit": limit}).fetchall()
        return [process_id for (process_id,) in rows]


def _process(row: TupleRow) -> ProcessView:
    (process_id, workflow, account_id, subject, step, state, failures, error, began_at, changed_at, began_position,
     timers) = row  # fmt: skip
    return ProcessView(
        process_id=process_id,
        workflow=workflow,
        account_id=account_id,
        subject=subject,
        step=step,
        state=ProcessState(state),
        failures=failures,
        error=error,
        began_at=began_at,
        changed_at=changed_at,
        began_position=began_position,
        timers=tuple(Timer(step, datetime.fromisoformat(due_at)) for step, due_at in timers or ()),
    )
