"""`keyledger serve`."""

from argparse import Namespace

from interfaces.serve import serve
from interfaces.settings import Settings


def run(arguments: Namespace, settings: Settings) -> int:
    """The service until it is stopped; its exit code."""
    del arguments
    return serve(settings)
