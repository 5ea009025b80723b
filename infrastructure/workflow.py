"""What the workflow engine's reactions leave in the log."""

import structlog

from domain.workflow import Process, ProcessState

log = structlog.get_logger()


class LoggedBoundary:
    """The port `Boundary`: says what failed, is stuck, or stands still; what goes well is silent."""

    def __init__(self) -> None:
        self._stopped_by: dict[str, tuple[int, str]] = {}

    def before_commit(self, process: Process) -> None:
        """Nothing to say yet."""

    def after_commit(self, process: Process) -> None:
        """Says when a process is stuck."""
        if process.state is ProcessState.STUCK:
            log.error("workflow_stuck", process_id=process.id, step=process.step, error=process.error)

    def failed(self, process_id: str, error: Exception) -> None:
        """Says what failed, with its traceback."""
        log.warning("workflow_step_failed", process_id=process_id, exc_info=error)

    def stopped(self, workflow: str, position: int, error: Exception) -> None:
        """Says where, and why; what is tried again and stops again is said once."""
        what = (position, f"{type(error).__name__}: {error}")
        if what == self._stopped_by.get(workflow):
            return
        self._stopped_by[workflow] = what
        log.error("workflow_stopped", workflow=workflow, position=position, exc_info=error)
