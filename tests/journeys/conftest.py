"""What the journeys share: one running service, places for others, and how long a round they are asked for."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.kit.service import Service


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory for a service of the test's own.

    Not pytest's: each start of pytest takes back the rights on its directories that PostgreSQL needs when root tests.
    """
    with TemporaryDirectory(prefix="keyledger-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A service with two workers that settles each second, for journeys that neither stop it nor count others' rows."""
    with (
        TemporaryDirectory(prefix="keyledger-") as directory,
        Service(Path(directory), workers=2, settlement_window_seconds=1) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the long rounds are asked for (`ops/test --full`)."""
    return os.environ.get("KEYLEDGER_TEST_FULL") == "1"
