"""The sweeps over keys: one that cannot be commanded holds up no other, and is not passed over in silence."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from eventsourcing.popo import POPOFactory
from eventsourcing.utils import Environment

from application.deadlines import Deadlines
from application.ledger import Ledger, UnknownAggregateError
from domain.api_key import ApiKey, GraceStart
from domain.errors import UnavailableError
from domain.ids import KeyId
from tests.kit.builders import NOON, CountingEntropy, SettableClock, a_key, key_id, origin

DAY = timedelta(days=1)
UNREADABLE = key_id(9)


@dataclass(frozen=True, slots=True)
class Due:
    """The port `DueKeys`: whatever is asked, a key that the ledger cannot give, and then the first one."""

    def to_retire(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Both."""
        del now, limit
        return [UNREADABLE, key_id(1)]

    to_expire = to_announce = to_flag = to_retire

    def to_begin_grace(self, limit: int) -> Sequence[tuple[KeyId, datetime]]:
        """Both, used on the first day."""
        return [(key, NOON + DAY) for key in self.to_retire(NOON, limit)]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger(POPOFactory(Environment("ledger", {}))) as opened:
        yield opened


def expiring() -> ApiKey:
    return a_key(number=1, expires_at=NOON + 2 * DAY)


def rotated(grace_starts: GraceStart) -> ApiKey:
    key = a_key(number=1)
    key.rotate(key_id(2), grace=DAY, grace_starts=grace_starts, by=origin())
    return key


SWEEPS: dict[str, tuple[Callable[[Deadlines], int], ApiKey, timedelta]] = {
    "key.revoked": (Deadlines.retire, rotated(GraceStart.NOW), 2 * DAY),
    "key.expired": (Deadlines.expire, expiring(), 3 * DAY),
    "key.expiring": (Deadlines.announce_expiry, expiring(), DAY),
    "key.rotation_due": (Deadlines.flag_rotation, a_key(number=1), 91 * DAY),
    "key.grace_began": (Deadlines.begin_grace, rotated(GraceStart.FIRST_USE), 2 * DAY),
}


@pytest.mark.parametrize("topic", SWEEPS)
def test_a_key_that_cannot_be_read_holds_up_no_other(ledger: Ledger, topic: str) -> None:
    """What comes after it is on record, and what broke it is raised at the end, with its id."""
    sweep, key, after = SWEEPS[topic]
    ledger.append(key)
    deadlines = Deadlines(ledger=ledger, due=Due(), clock=SettableClock(NOON + after), entropy=CountingEntropy())
    with pytest.raises(UnknownAggregateError) as raised:
        sweep(deadlines)
    assert raised.value.__notes__ == [f"of {UNREADABLE}"]
    assert [event.TOPIC for event in ledger.events.get(key_id(1))][-1] == topic


class AwayLedger(Ledger):
    """A ledger whose database is away once one has looked for a key."""

    def load(self, kind: type[ApiKey], aggregate_id: str) -> ApiKey:
        """Fails."""
        del kind
        raise UnavailableError("gone", context={"asked": aggregate_id})


def test_a_database_that_is_away_ends_a_sweep_at_once() -> None:
    """It would be so for each of five hundred keys."""
    with AwayLedger(POPOFactory(Environment("ledger", {}))) as ledger:
        deadlines = Deadlines(ledger=ledger, due=Due(), clock=SettableClock(NOON), entropy=CountingEntropy())
        with pytest.raises(UnavailableError) as raised:
            deadlines.flag_rotation()
    assert raised.value.context["asked"] == UNREADABLE
