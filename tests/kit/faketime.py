"""Another day for a process and all that it starts: Debian's `faketime`."""

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

SOURCE = Path(__file__).with_name("true_sleep.c")
COMPILE_SECONDS = 60
LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
COMPILER = shutil.which("cc")
IS_AVAILABLE = LIBRARY is not None and COMPILER is not None


def another_day(place: Path, ahead: timedelta) -> dict[str, str]:
    """The environment of a process whose wall clock is that much ahead; it waits as long as ever.

    ``place`` takes a library that a server of another user must be able to read.
    """
    assert LIBRARY is not None
    assert COMPILER is not None
    sleep = place / "true_sleep.so"
    if not sleep.exists():
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", sleep, SOURCE], check=True, timeout=COMPILE_SECONDS)
    return {
        "LD_PRELOAD": f"{sleep}:{LIBRARY}",
        "FAKETIME": f"{ahead.total_seconds():+.0f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
