"""How a process of ours is asked to end."""

import signal
from threading import Event as Flag
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals() -> Flag:
    """A flag that SIGTERM or SIGINT sets; for the main thread of a process."""
    stop = Flag()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in SIGNALS:
        signal.signal(number, ask)
    return stop


def end_on_signals() -> None:
    """Lets SIGTERM and SIGINT end this process at once, whatever handlers it was forked with."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
