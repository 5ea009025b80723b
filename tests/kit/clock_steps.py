"""Processes whose wall clock can be set while they run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("stepped_clock.c")
COMPILE_SECONDS = 60


class SteppedClock:
    """A wall clock for the processes that are started under it; all other clocks are the machine's."""

    def __init__(self, place: Path) -> None:
        self._library = place / "stepped_clock.so"
        self._file = place / "stepped_clock"
        compiler = shutil.which("cc")
        self.is_available = sys.platform == "linux" and compiler is not None
        """Whether there is a C compiler to make it; without one it is the machine's, and no test may rely on a step."""
        if self.is_available:
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [str(compiler), "-shared", "-fPIC", "-O1", "-o", self._library, SOURCE],
                check=True,
                timeout=COMPILE_SECONDS,
            )
        self.step(0)

    def step(self, seconds: int) -> None:
        """From now on it is so many seconds ahead of the machine's."""
        if self.is_available:
            # In place: it is mapped where it is read.
            with self._file.open("r+b" if self._file.exists() else "wb") as file:
                file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """Processes that are started within, and theirs, go by it."""
        words = {"LD_PRELOAD": str(self._library), "STEPPED_CLOCK": str(self._file)} if self.is_available else {}
        os.environ.update(words)
        try:
            yield
        finally:
            for name in words:
                del os.environ[name]
