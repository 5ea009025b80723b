"""Serves one application of apps.py as `keyledger serve` does: its own main, its granian, its every flag.

    python ops/bench/serve.py keyledger|unlogged|plain|mounted|bare

Only the application's name is another. Host, port and workers come from the environment, as there.
"""

import sys
from typing import Any

from granian.server import Server

from interfaces.http import server


def main() -> None:
    """Serves until SIGTERM."""
    factory = f"apps:{sys.argv[1]}"

    def with_ours(_: str, **flags: Any) -> Any:
        return Server(factory, **flags)

    server.Server = with_ours
    server.main()


if __name__ == "__main__":
    main()
