"""The keys' view against the aggregate: the row says what the events say, and again after a rebuild."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.ledger import Ledger
from domain.access import Networks, Scopes
from domain.api_key import ApiKey, GraceStart, KeyStateError, RevocationReason
from domain.key_status import KeyStatus, status_of
from domain.naming import Name
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.campaigns import CampaignsView
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from infrastructure.projections import Rebuilder
from tests.kit.builders import NOON, a_campaign, a_key, account_id, an_account, key_id, origin

DAY = timedelta(days=1)
COMMANDS = (
    "rename",
    "rescope",
    "restrict",
    "disable",
    "enable",
    "rotate",
    "begin",
    "retire",
    "revoke",
    "expire",
    "flag",
)


def command(key: ApiKey, word: str, days: int) -> None:
    """Sends one command; one that the state refuses changes nothing."""
    by = origin(NOON + days * DAY)
    commands = {
        "rename": lambda: key.rename(Name(f"day {days}"), by=by),
        "rescope": lambda: key.rescope(Scopes.parse(["keys:read"]) if days % 2 else None, by=by),
        "restrict": lambda: key.restrict(Networks.parse(["10.0.0.0/8", "::1"]) if days % 2 else None, by=by),
        "disable": lambda: key.disable(by=by),
        "enable": lambda: key.enable(by=by),
        "rotate": lambda: key.rotate(
            key_id(days + 10), grace=DAY * (days % 3), grace_starts=list(GraceStart)[days % 2], by=by
        ),
        "begin": lambda: key.begin_grace(first_use=by.at, by=by),
        "retire": lambda: key.retire(by=by),
        "revoke": lambda: key.revoke(reason=RevocationReason.OTHER, note=None, by=by),
        "expire": lambda: key.expire(by=by),
        "flag": lambda: key.fall_due(by=by),
    }
    with suppress(KeyStateError):
        commands[word]()


@given(
    history=st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, 120)), max_size=12),
    expires=st.none() | st.integers(1, 120),
    now=st.integers(0, 200),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_row_says_what_the_aggregate_says(
    database: Database, history: list[tuple[str, int]], expires: int | None, now: int
) -> None:
    """After any history, view and aggregate agree on every column, and SQL and Python on the status, at any time."""
    ledger = Ledger(PostgresLedgerFactory(PostgresRecorder(database, [KeysView()])))
    keys = PostgresKeys(database)
    key = a_key(expires_at=None if expires is None else NOON + expires * DAY)
    ledger.append(key)
    for word, days in sorted(history, key=lambda step: step[1]):
        command(key, word, days)
        ledger.append(key)
    row = keys.find(key.key_id)
    assert row is not None
    assert (row.name, row.disabled, row.revoked_at, row.retires_at) == (
        key.name, key.disabled, key.revoked_at, key.retires_at,
    )  # fmt: skip
    assert (row.expires_at, row.replaced_by, row.lineage_id) == (key.expires_at, key.replaced_by, key.lineage_id)
    assert row.scopes == (None if key.scopes is None else tuple(key.scopes.to_list()))
    assert row.allowed_ips == (None if key.networks is None else tuple(key.networks.to_list()))
    at = NOON + now * DAY
    assert status_of(row, at) is key.status(at)
    listed = {
        status: [view.key_id for view in keys.page(
            account_id(), environment=None, status=status, before=None, limit=1000, now=at
        )]
        for status in KeyStatus
    }  # fmt: skip
    assert [status for status, ids in listed.items() if key.key_id in ids] == [key.status(at)]


@pytest.fixture
def recorder(database: Database) -> PostgresRecorder:
    return PostgresRecorder(database, [AccountsView(), KeysView(), CampaignsView()])


def test_a_rebuild_gives_the_same_rows(database: Database, recorder: PostgresRecorder) -> None:
    """Dropped and replayed, every immediate view holds the same rows, and the vault was not touched."""
    ledger = Ledger(PostgresLedgerFactory(recorder))
    ledger.append(an_account())
    ledger.append(a_campaign())
    for number in range(1, 8):
        key = a_key(number=number)
        ledger.append(key)
        for days, word in enumerate(COMMANDS[number - 1 :]):
            command(key, word, days * number)
            ledger.append(key)
    before = rows(database)
    assert len(before["views.keys"]) == 7
    rebuilder = Rebuilder(database, recorder, [AccountsView(), KeysView(), CampaignsView()], [])
    assert rebuilder.rebuild() == recorder.max_notification_id()
    assert rows(database) == before


def rows(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the immediate views."""
    with database.cursor() as cursor:
        return {
            "views.accounts": cursor.execute("SELECT * FROM views.accounts ORDER BY account_id").fetchall(),
            "views.keys": cursor.execute("SELECT * FROM views.keys ORDER BY key_id").fetchall(),
            "views.campaigns": cursor.execute("SELECT * FROM views.campaigns ORDER BY campaign_id").fetchall(),
        }
