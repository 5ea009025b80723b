"""The serving processes: granian with one worker a process, each building the application from its environment."""

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server
from litestar.types import ASGIApp

from interfaces.bootstrap import (
    SERVER_LOGGING,
    allow_descriptors,
    http_app,
    share_board,
    start_logging,
    tie_to_parent,
)
from interfaces.settings import Settings
from interfaces.stopping import end_on_signals

RESPAWN_SECONDS = 0.5
KILL_AFTER_SECONDS = 15
BACKLOG = 1024
CONNECTIONS_MAX = 10_000  # of each process; an idle one ends after 10 s, and so does a body that is not sent
OTHER_DESCRIPTORS = 500
HEADER_READ_MS = 10_000
HEADER_BYTES_MAX = 16_384


def worker_app() -> ASGIApp:
    """The application of a worker, which granian calls before it takes the worker's signals over.

    Until then the parent's handlers stand, which a fork copies: they would swallow a stop, and the worker be killed
    for it 15 s later.
    """
    end_on_signals()
    return http_app()


def main() -> None:
    """Serves until SIGTERM or SIGINT; a worker that dies is replaced."""
    settings = Settings.read()
    start_logging(settings, service="serve")
    tie_to_parent(settings.supervisor)
    share_board(settings)
    allow_descriptors(CONNECTIONS_MAX + OTHER_DESCRIPTORS)
    Server(
        "interfaces.http.server:worker_app",
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_READ_MS, max_buffer_size=HEADER_BYTES_MAX),
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_MAX,  # by default a share of the backlog, which one client alone can fill
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_SECONDS,
        workers_kill_timeout=KILL_AFTER_SECONDS,
        log_dictconfig=SERVER_LOGGING,
    ).serve()


if __name__ == "__main__":
    main()
