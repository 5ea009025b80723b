"""The background process: `keyledger work`. It stands for leader, and leads the jobs and the tailer."""

import signal
from threading import Event as Flag

from interfaces.bootstrap import run_background, start_logging, tie_to_parent
from interfaces.settings import Settings


def work(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; the exit code."""
    stop = Flag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    start_logging(settings, service="work")
    tie_to_parent()
    run_background(settings, stop)
    return 0
