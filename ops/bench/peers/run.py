#!/usr/bin/env python3
"""Run one verb of one peer: `run.py PEER install|prepare|serve|revoke …`, or `run.py list`. Standard library only.

`--data DIR` (default var/bench-peers) holds each peer's own packages. The other verbs and their output are those of
contract.py; the process is replaced by the peer's, so its SIGTERM is the caller's.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "var" / "bench-peers"
NODE_FILES = ("package.json", "package-lock.json", ".npmrc", "peer.mjs")


@dataclass(frozen=True)
class PythonPeer:
    """A module of this folder; `packages` names its requirements file and its virtual environment."""

    module: str
    packages: str

    def install(self, data: Path) -> None:
        """Make the virtual environment, with the pinned and hashed packages."""
        home = data / self.packages
        venv.create(home, with_pip=True, clear=True)
        requirements = HERE / f"requirements-{self.packages}.txt"
        words = ["-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(requirements)]
        subprocess.run([str(home / "bin" / "python"), *words], check=True)  # noqa: S603 - fixed words, no shell

    def command(self, data: Path, name: str, words: Sequence[str]) -> list[str]:
        """What carries out a verb."""
        return [str(data / self.packages / "bin" / "python"), str(HERE / self.module), name, *words]


@dataclass(frozen=True)
class NodePeer:
    """A folder here with a package.json and a peer.mjs, copied so that node finds the packages beside it."""

    packages: str

    def install(self, data: Path) -> None:
        """Fill node_modules from the lock."""
        self._copy(data)
        npm = shutil.which("npm") or "npm"
        subprocess.run([npm, "ci", "--silent"], cwd=data / self.packages, check=True)  # noqa: S603 - as above

    def command(self, data: Path, _name: str, words: Sequence[str]) -> list[str]:
        """What carries out a verb."""
        self._copy(data)
        return [shutil.which("node") or "node", str(data / self.packages / "peer.mjs"), *words]

    def _copy(self, data: Path) -> None:
        (data / self.packages).mkdir(parents=True, exist_ok=True)
        for name in NODE_FILES:
            shutil.copyfile(HERE / self.packages / name, data / self.packages / name)


PEERS: dict[str, PythonPeer | NodePeer] = {
    "drf-api-key": PythonPeer("peer_drf_api_key.py", "drf-api-key"),
    "better-auth": NodePeer("better-auth"),
    "safe-api-keys": PythonPeer("peer_safe_api_keys.py", "safe-api-keys"),
    "safe-api-keys-cached": PythonPeer("peer_safe_api_keys.py", "safe-api-keys"),
    "keyshield": PythonPeer("peer_keyshield.py", "keyshield"),
    "keyshield-cached": PythonPeer("peer_keyshield.py", "keyshield"),
}


def main() -> None:
    """Carry out the verb; words after it go to the peer as they are."""
    if sys.argv[1:] == ["list"]:
        print("\n".join(PEERS))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("verb", choices=["install", "prepare", "serve", "revoke"])
    parser.add_argument("--data", type=Path, default=DATA)
    options, words = parser.parse_known_args()
    peer = PEERS[options.peer]
    data = options.data.resolve()
    if options.verb == "install":
        peer.install(data)
        return
    command = peer.command(data, options.peer, [options.verb, *words])
    os.execv(command[0], command)  # noqa: S606 - a fixed program, no shell


if __name__ == "__main__":
    main()
