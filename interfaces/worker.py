"""The background process: `keyledger work`. It stands for leader, and leads the jobs and the tailer."""

import os

from interfaces.bootstrap import run_background, start_logging, tie_to_parent
from interfaces.settings import Settings
from interfaces.stopping import stop_on_signals

NICENESS = 5


def work(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; the exit code.

    Where processors are short those who answer go first: settling a busy window is a second of one.
    """
    os.nice(NICENESS)
    stop = stop_on_signals()
    start_logging(settings, service="work")
    tie_to_parent(settings.supervisor)
    run_background(settings, stop)
    return 0
