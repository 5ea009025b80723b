"""What a change of a key is answered with, asked for along with its append."""

from collections.abc import Iterator

import pytest

from application.ledger import Ledger
from domain.api_key import ApiKey, RevocationReason
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.freshness import PostgresFreshness
from infrastructure.postgres.key_answers import PostgresKeyAnswers
from infrastructure.postgres.keys import KeysView
from infrastructure.postgres.pool import Database
from tests.kit.builders import a_key, an_account, key_id, origin


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    """One account and its key, at the positions 1 and 2."""
    recorder = PostgresRecorder(database, [AccountsView(), KeysView()])
    with Ledger(PostgresLedgerFactory(recorder)) as opened:
        opened.append(an_account(number=1), a_key(number=1))
        yield opened


@pytest.fixture
def answers(database: Database) -> PostgresKeyAnswers:
    """The port under test."""
    return PostgresKeyAnswers(database, PostgresFreshness(database))


def revoke(key: ApiKey) -> None:
    """The change."""
    key.revoke(reason=RevocationReason.OTHER, note=None, by=origin())


def test_an_answer_holds_the_change_that_it_went_out_with(ledger: Ledger, answers: PostgresKeyAnswers) -> None:
    """The key is read after the commit, and the processes are awaited at its position."""
    answer = answers.of(key_id(1))
    _, position = ledger.change(ApiKey, key_id(1), revoke, answer=answer)
    found = answer.read()
    assert found is not None
    view, usage, freshness = found
    assert view.revoked_at is not None
    assert view.position == freshness.position == position == 3
    assert (usage.requests, freshness.processes) == (0, 0)


def test_an_answer_without_a_change_is_asked_for_by_itself(ledger: Ledger, answers: PostgresKeyAnswers) -> None:
    """A second revoke records nothing, and is answered like the first."""
    ledger.change(ApiKey, key_id(1), revoke)
    answer = answers.of(key_id(1))
    assert ledger.change(ApiKey, key_id(1), revoke, answer=answer)[1] is None
    found = answer.read()
    assert found is not None
    assert found[0].revoked_at is not None
    assert found[2].position == 3


def test_a_lost_race_is_answered_with_what_was_decided_at_last(ledger: Ledger, answers: PostgresKeyAnswers) -> None:
    """The first try's question is dropped with its append."""
    answer = answers.of(key_id(1))
    turns = iter([True, False])

    def change(key: ApiKey) -> None:
        key.disable(by=origin())
        if next(turns):
            ledger.change(ApiKey, key_id(1), revoke)

    ledger.change(ApiKey, key_id(1), lambda key: change(key) if key.revoked_at is None else None, answer=answer)
    found = answer.read()
    assert found is not None
    assert found[0].revoked_at is not None
    assert not found[0].disabled


def test_no_key_is_no_answer(answers: PostgresKeyAnswers) -> None:
    """Nobody has that id."""
    assert answers.of(key_id(9)).read() is None
