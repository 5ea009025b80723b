"""`keyledger work`."""

from argparse import Namespace

from interfaces.settings import Settings
from interfaces.worker import work


def run(arguments: Namespace, settings: Settings) -> int:
    """The background process until it is stopped; its exit code."""
    del arguments
    return work(settings)
