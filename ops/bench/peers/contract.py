"""The contract of a peer written in Python: one module, run by its own virtual environment, with three verbs.

`prepare --keys N --sample K` makes the schema in an empty database, K keys through the peer's own interface and N - K
rows that are never presented (plain SQL, so that a million cost seconds), and prints `Prepared` as one line of JSON.
`serve --port P --workers W` becomes the server: `GET /` answers {"ok":true} to a valid key, `GET /pid` names the worker
to anyone. `revoke KEY_ID` revokes through the peer's own interface, and prints `Revoked` as one line of JSON.

The database is named by libpq's variables (PGHOST, PGPORT, PGUSER, PGDATABASE), which every driver used here reads.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class SampleKey:
    """One valid key: `key_id` is what `revoke` takes, `value` what the header `Prepared.header` carries."""

    key_id: str
    value: str


@dataclass(frozen=True)
class Prepared:
    """What a client must know."""

    header: str
    keys: list[SampleKey]


@dataclass(frozen=True)
class Revoked:
    """The revoke's answer, with the instant on CLOCK_MONOTONIC (one clock for all processes of a Linux machine)."""

    key_id: str
    returned_ns: int


@dataclass(frozen=True)
class Peer:
    """The verbs of one peer; `factory` is granian's "module:function", `interface` is "wsgi" or "asgi".

    `revoke` answers `Revoked.returned_ns`: `time.monotonic_ns()` right after the peer's call, before closing anything.
    """

    prepare: Callable[[int, int], Prepared]
    revoke: Callable[[str], int]
    factory: str
    interface: str
    options: tuple[str, ...] = ()


def main(variants: dict[str, Peer]) -> None:
    """Carry out one verb; the first argument names the variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=sorted(variants))
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare = verbs.add_parser("prepare")
    prepare.add_argument("--keys", type=int, default=1000)
    prepare.add_argument("--sample", type=int, default=64)
    serve = verbs.add_parser("serve")
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--workers", type=int, default=1)
    revoke = verbs.add_parser("revoke")
    revoke.add_argument("key_id")
    options = parser.parse_args()
    peer = variants[options.variant]
    if options.verb == "prepare":
        print(json.dumps(asdict(peer.prepare(options.keys, options.sample))))
    elif options.verb == "revoke":
        print(json.dumps(asdict(Revoked(options.key_id, peer.revoke(options.key_id)))))
    else:
        _become_granian(peer, options.port, options.workers)


def _become_granian(peer: Peer, port: int, workers: int) -> None:
    """The same server, loop and version for every Python peer, without an access log."""
    granian = str(Path(sys.executable).with_name("granian"))
    words = [
        granian,
        "--interface",
        peer.interface,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        str(workers),
    ]
    words += ["--http", "1", "--no-ws", "--loop", "uvloop", "--log-level", "warning", "--workers-kill-timeout", "5"]
    words += ["--working-dir", str(HERE), *peer.options, "--factory", peer.factory]
    os.execv(granian, words)  # noqa: S606 - a fixed program, no shell; the caller's SIGTERM must reach it
