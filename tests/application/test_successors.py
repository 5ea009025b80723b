"""The round of hand-overs, where the database is away; `tests/infrastructure/test_successors.py` has the hand-overs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from application.successors import Successors
from domain.errors import UnavailableError
from tests.kit.builders import SettableClock

UNUSED: Any = None


class AwayLedger:
    """A ledger whose database cannot be reached."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def load(self, kind: type[object], aggregate_id: str) -> object:
        """Nothing."""
        del kind
        self.asked.append(aggregate_id)
        raise UnavailableError("The database cannot be reached")


class TwoDue:
    """The port `AwaitedHandovers`: two accounts have one due."""

    def handovers_due(self, now: datetime, limit: int) -> Sequence[str]:
        """One for each."""
        del now, limit
        return ["rot_000000001", "rot_000000002"]


def test_a_database_that_is_away_ends_the_round() -> None:
    """It is away for all accounts: no other is tried, and the next round finds them all."""
    ledger: Any = AwayLedger()
    awaited: Any = TwoDue()
    successors = Successors(
        ledger=ledger,
        keys=UNUSED,
        webhooks=UNUSED,
        handover=UNUSED,
        awaited=awaited,
        clock=SettableClock(),
        entropy=UNUSED,
    )
    with pytest.raises(UnavailableError):
        successors.hand_over_due()
    assert ledger.asked == ["rot_000000001"]
