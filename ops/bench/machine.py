"""The machine under the bench: which core runs what, the processor time of processes, and what machine it is."""

import os
import platform
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psycopg

CHECKOUT = Path(__file__).resolve().parents[2]
SERVER_CORES = frozenset({0})
LOAD_CORES = frozenset({1})
BOTH_CORES = SERVER_CORES | LOAD_CORES
MEMBERS = "cgroup.procs"
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def on_cores(cores: Iterable[int]) -> Generator[None]:
    """What this thread starts meanwhile runs on these cores alone, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def children_of(pid: int) -> list[int]:
    """The processes that it has started and that live."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def tree_of(pid: int) -> list[int]:
    """A process and all that it has started."""
    return [pid, *(each for child in children_of(pid) for each in tree_of(child))]


def command_of(pid: int) -> str:
    """Its command line; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time that these processes have used, with that of their children that have ended."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:15]))
    return ticks / _TICKS


def resident_bytes(pid: int) -> int:
    """The memory that it holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class CoreTimes:
    """Of one core, in ticks since the machine started."""

    total: int
    idle: int
    stolen: int

    @classmethod
    def of(cls, core: int) -> Self:
        """Now."""
        lines = Path("/proc/stat").read_text().splitlines()
        words = next(line.split()[1:] for line in lines if line.startswith(f"cpu{core} "))
        times = list(map(int, words))
        return cls(sum(times[:8]), times[3] + times[4], times[7])

    def busy_since(self, before: Self) -> float:
        """The share of the time since then that the core was not idle."""
        return 1 - (self.idle - before.idle) / max(1, self.total - before.total)

    def stolen_since(self, before: Self) -> float:
        """The share of the time since then that the host gave to somebody else."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


@contextmanager
def one_scheduling_group() -> Generator[bool]:
    """This process and whatever it starts meanwhile share the processors as one group (cgroups), as in a container.

    Otherwise the kernel may make each session a group (autogroup, sched(7)), and every backend of PostgreSQL begins a
    session. False, and nothing is changed, where this user cannot make groups.
    """
    group = _group_root() / f"keyledger-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / MEMBERS).write_text(str(os.getpid()), encoding="ascii")
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        for pid in (group / MEMBERS).read_text(encoding="ascii").split():
            (group.parent / MEMBERS).write_text(pid, encoding="ascii")
        group.rmdir()


def _group_root() -> Path:
    one, two = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    if (two / "cgroup.controllers").exists():
        with suppress(OSError):
            (two / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
        return two
    return one


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def describe(conninfo: str) -> dict[str, str]:
    """The machine and the versions, for the report."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "Date": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "Commit": _commit(),
        "Machine": f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GB",
        "System": f"Linux {platform.release()}, Python {platform.python_version()}, PostgreSQL {row[0] if row else ''}",
    }


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False)  # noqa: S603, S607 - fixed words
        return done.stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "domain", "application", "infrastructure", "interfaces"
    )
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + (" with changes" if changed else "")
