"""How a process of ours is asked to end."""

import signal
from threading import Event as Flag
from types import FrameType


def stop_on_signals() -> Flag:
    """A flag that SIGTERM or SIGINT sets; for the main thread of a process."""
    stop = Flag()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop
