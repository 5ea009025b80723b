"""The serving processes: granian with one worker a process, each building the application from its environment."""

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server

from interfaces.bootstrap import SERVER_LOGGING, start_logging, tie_to_parent
from interfaces.settings import Settings

RESPAWN_SECONDS = 0.5
KILL_AFTER_SECONDS = 15
BACKLOG = 1024
HEADER_READ_MS = 10_000
HEADER_BYTES_MAX = 16_384


def main() -> None:
    """Serves until SIGTERM or SIGINT; a worker that dies is replaced."""
    settings = Settings.read()
    start_logging(settings, service="serve")
    tie_to_parent(settings.supervisor)
    Server(
        "interfaces.bootstrap:http_app",
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
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_SECONDS,
        workers_kill_timeout=KILL_AFTER_SECONDS,
        log_dictconfig=SERVER_LOGGING,
    ).serve()


if __name__ == "__main__":
    main()
