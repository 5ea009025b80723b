"""Keys that expire: said a week and a day ahead, each once, however long the service slept."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.deadlines import Deadlines
from application.ledger import Ledger
from domain.api_key import ApiKey, GraceStart
from domain.api_key_events import Expiring
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from tests.kit.builders import NOON, CountingEntropy, SettableClock, a_key, an_imported_key, key_id, origin

DAY = timedelta(days=1)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with Ledger(PostgresLedgerFactory(PostgresRecorder(database, [KeysView()]))) as opened:
        yield opened


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def deadlines(ledger: Ledger, database: Database, clock: SettableClock) -> Deadlines:
    return Deadlines(ledger=ledger, due=PostgresKeys(database), clock=clock, entropy=CountingEntropy())


def said(ledger: Ledger, number: int) -> list[datetime]:
    """When the key was said to expire soon."""
    return [event.timestamp for event in ledger.events.get(key_id(number)) if isinstance(event, Expiring)]


def test_it_is_said_a_week_and_a_day_ahead(ledger: Ledger, deadlines: Deadlines, clock: SettableClock) -> None:
    """From the moment on, once each, though the sweep runs every hour."""
    ledger.append(a_key(number=1, expires_at=NOON + 30 * DAY))
    for _ in range(31 * 24):
        deadlines.announce_expiry()
        clock.advance(timedelta(hours=1))
    assert said(ledger, 1) == [NOON + 23 * DAY, NOON + 29 * DAY]


@pytest.mark.parametrize(
    ("asleep_from", "asleep_for", "hours"),
    [(22, 3, [25 * 24, 29 * 24]), (28, 3, [23 * 24]), (27.5, 2, [23 * 24, 29.5 * 24]), (22, 7.5, [29.5 * 24])],
    ids=["over the week", "beyond the end", "over the day", "over both"],
)
def test_asleep_it_is_said_once_on_waking(  # noqa: PLR0913, PLR0917 - three fixtures, three numbers
    ledger: Ledger,
    deadlines: Deadlines,
    clock: SettableClock,
    asleep_from: float,
    asleep_for: float,
    hours: list[float],
) -> None:
    """A missed moment is made good; two of them are one notice; after the end there is none."""
    ledger.append(a_key(number=1, expires_at=NOON + 30 * DAY))
    while clock.now() < NOON + 32 * DAY:
        if not asleep_from * DAY <= clock.now() - NOON < (asleep_from + asleep_for) * DAY:
            deadlines.announce_expiry()
        clock.advance(timedelta(hours=1))
    assert said(ledger, 1) == [NOON + timedelta(hours=hour) for hour in hours]


def test_a_moment_before_the_keys_making_is_not_made_good(
    ledger: Ledger, deadlines: Deadlines, clock: SettableClock
) -> None:
    """A key for three days is said to expire once, a key for an hour never; an imported one counts from its making."""
    ledger.append(a_key(number=1, expires_at=NOON + 3 * DAY), a_key(number=2, expires_at=NOON + DAY / 24))
    ledger.append(an_imported_key(number=3, created_at=NOON - 90 * DAY, expires_at=NOON + 3 * DAY))
    while clock.now() < NOON + 4 * DAY:
        deadlines.announce_expiry()
        clock.advance(timedelta(minutes=30))
    assert [said(ledger, number) for number in (1, 2, 3)] == [[NOON + 2 * DAY], [], [NOON, NOON + 2 * DAY]]


def test_a_key_with_a_successor_or_an_end_is_let_be(
    database: Database, ledger: Ledger, deadlines: Deadlines, clock: SettableClock
) -> None:
    """Rotating: its retirement is said instead, and no sweep finds it. Expired: too late."""
    rotating = a_key(number=1, expires_at=NOON + 8 * DAY)
    rotating.rotate(key_id(9), grace=30 * DAY, grace_starts=GraceStart.NOW, by=origin(NOON))
    ledger.append(rotating, a_key(number=2, expires_at=NOON + 8 * DAY))
    assert PostgresKeys(database).to_announce(NOON + 2 * DAY, 10) == [key_id(2)]
    clock.advance(9 * DAY)
    assert deadlines.announce_expiry() == 0
    assert said(ledger, 1) == said(ledger, 2) == []


hours = st.integers(0, 24 * 30).map(lambda n: timedelta(hours=n))


@given(lifetime=hours, sweeps=st.lists(hours, max_size=8).map(sorted))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_view_and_the_aggregate_agree_on_what_is_due(
    database: Database, ledger: Ledger, lifetime: timedelta, sweeps: list[timedelta]
) -> None:
    """Whatever the view names as due, the aggregate takes, and it would take nothing else."""
    key = a_key(expires_at=NOON + lifetime)
    ledger.append(key)
    keys = PostgresKeys(database)
    for sweep in sweeps:
        due = key.key_id in keys.to_announce(NOON + sweep, 1_000_000)
        _, position = ledger.change(ApiKey, key.key_id, lambda it, at=NOON + sweep: it.announce_expiry(by=origin(at)))
        assert (position is not None) == due
