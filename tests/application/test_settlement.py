"""Settlement: rows in, events out; each row once, at most a thousand keys an event, and a root over the rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from eventsourcing.popo import POPOFactory
from eventsourcing.utils import Environment
from hypothesis import given
from hypothesis import strategies as st

from application.ledger import Ledger
from application.usage import ACTOR, EndedRun, LoggedRow, OpenRun, Settlement, row_leaves
from domain.ids import AccountId, KeyId, RunId
from domain.merkle import MerkleTree, inclusion_is_proven, leaf_hash
from domain.usage import Closed, KeysUsed, Started, UsageRun
from tests.kit.builders import NOON, CountingEntropy, account_id, entropy, key_id, origin

RUN, BROKEN = RunId.from_entropy(entropy(1)), RunId.from_entropy(entropy(2))
WINDOW = timedelta(seconds=10)
UNKNOWN = key_id(9999)


def a_row(seq: int, *, key: KeyId | None = None, accepted: bool = True) -> LoggedRow:
    return LoggedRow(
        seq=seq,
        salt=bytes([seq % 256]) * 16,
        occurred_at=NOON + timedelta(seconds=seq),
        method="GET",
        endpoint="/api/campaigns",
        status=200 if accepted else 401,
        outcome="ok" if accepted else "revoked",
        accepted=accepted,
        key_id=key,
        account_id=None,
        key_hash=None,
        client_ip="203.0.113.7",
        request_id=f"req_{seq:022d}",
    )


@dataclass(slots=True)
class Rows:
    """The port `SettlementRows` over a list: one run, whose windows end after the numbers given."""

    logged: Sequence[LoggedRow]
    windows: tuple[int, ...]
    version: int = 0
    settled_through: int = 0
    ended: list[EndedRun] = field(default_factory=list[EndedRun])
    asked: list[tuple[datetime, datetime]] = field(default_factory=list[tuple[datetime, datetime]])

    def end_windows(self, now: datetime, latest: datetime) -> None:
        """Remembers what was asked."""
        self.asked.append((now, latest))

    def open_runs(self) -> Sequence[OpenRun]:
        """The one run."""
        return [OpenRun(RUN, "alpha:7", NOON, self.version, self.settled_through, self.windows)]

    def rows(self, run_id: RunId, after: int, through: int, limit: int) -> Sequence[LoggedRow]:
        """Its rows."""
        assert run_id == RUN
        return [logged for logged in self.logged if after < logged.seq <= through][:limit]

    def owners(self, key_ids: Iterable[KeyId]) -> dict[KeyId, AccountId]:
        """One account has them all, but for the one that does not exist."""
        return {each: account_id() for each in key_ids if each != UNKNOWN}

    def end_runs(self, silent_since: datetime) -> Sequence[EndedRun]:
        """What the test says."""
        del silent_since
        return self.ended


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger(POPOFactory(Environment("ledger", {}))) as opened:
        yield opened


def settle(ledger: Ledger, rows: Rows) -> int:
    return Settlement(ledger=ledger, rows=rows, entropy=CountingEntropy(), window=WINDOW).settle(NOON)


def events(ledger: Ledger) -> list[object]:
    return list(ledger.events.get(RUN))


def test_a_window_becomes_one_event_with_each_keys_counts(ledger: Ledger) -> None:
    """Requests are accepted uses, failed attempts the others; rows of no key that exists count as rows alone."""
    first, second = sorted([key_id(1), key_id(2)])
    rows = Rows(
        [
            a_row(1, key=first),
            a_row(2, key=first, accepted=False),
            a_row(4, key=first),
            a_row(5, key=second, accepted=False),
            a_row(6),
            a_row(7, key=UNKNOWN),
        ],
        windows=(7,),
    )
    assert settle(ledger, rows) == 6
    started, used = events(ledger)
    assert isinstance(started, Started)
    assert isinstance(used, KeysUsed)
    assert used.actor == ACTOR
    assert (used.first_row, used.last_row, used.rows) == (1, 7, 6)
    assert (used.window_start, used.window_end) == (NOON + timedelta(seconds=1), NOON + timedelta(seconds=7))
    assert [(key.key_id, key.requests, key.failed_attempts) for key in used.keys] == [(first, 2, 1), (second, 0, 1)]
    assert (used.keys[0].first_used_at, used.keys[0].last_used_at) == (
        NOON + timedelta(seconds=1),
        NOON + timedelta(seconds=4),
    )
    assert (used.keys[1].first_used_at, used.keys[1].last_used_at) == (None, None)


def test_every_row_is_provable_in_the_root_of_its_event(ledger: Ledger) -> None:
    """Who is shown one row with its salt can check it against the event, without seeing any other row."""
    logged = [a_row(seq, key=key_id(1)) for seq in range(1, 12)]
    settle(ledger, Rows(logged, windows=(11,)))
    used = events(ledger)[-1]
    assert isinstance(used, KeysUsed)
    tree = MerkleTree()
    for leaf in row_leaves(RUN, logged):
        tree.append(leaf)
    root = bytes.fromhex(used.details_root)
    for index, each in enumerate(logged):
        (leaf,) = row_leaves(RUN, [each])
        assert inclusion_is_proven(leaf, index, len(logged), tree.inclusion_proof(index), root)


def test_a_row_is_encoded_as_documented() -> None:
    """Salt, then one JSON array: proofs that were handed out must hold for ever."""
    documented = b"\x03" * 16 + (
        b'["run_0000000000000001",3,"2026-03-01T12:00:03Z","GET","/api/campaigns",200,"ok",true,"key_000000001",null,'
        b'null,"203.0.113.7","req_0000000000000000000003"]'
    )
    assert row_leaves(RUN, [a_row(3, key=key_id(1))]) == [leaf_hash(documented)]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_row_has_the_same_leaf_whatever_stands_beside_it(endpoints: list[str]) -> None:
    """Rows are encoded together, and none of their text ends one."""
    logged = [a_row(seq) for seq in range(len(endpoints))]
    logged = [each._replace(endpoint=text) for each, text in zip(logged, endpoints, strict=True)]
    assert row_leaves(RUN, logged) == [leaf for each in logged for leaf in row_leaves(RUN, [each])]
    assert len(set(row_leaves(RUN, logged))) == len(logged)


def test_windows_whose_rows_name_no_key_are_settled_in_portions(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not told apart, and a night of them without a leader must not be read at once."""
    monkeypatch.setattr("application.usage.WINDOW_ROWS_MAX", 4)
    logged = [a_row(1, key=key_id(1)), *(a_row(seq) for seq in range(2, 10)), a_row(11, key=key_id(1))]
    assert settle(ledger, Rows(logged, windows=(10, 11))) == 10
    used = [event for event in events(ledger) if isinstance(event, KeysUsed)]
    assert [(event.first_row, event.last_row, event.rows) for event in used] == [
        (1, 4, 4),
        (5, 8, 4),
        (9, 9, 1),
        (11, 11, 1),
    ]
    assert sum(key.requests for event in used for key in event.keys) == 2


def test_more_than_a_thousand_keys_take_several_events_of_one_append(ledger: Ledger) -> None:
    """Each event holds at most 1,000 keys and consecutive rows, and together they hold all."""
    logged = [a_row(seq, key=key_id(seq)) for seq in range(1, 2502)]
    assert settle(ledger, Rows(logged, windows=(2501,))) == 2501
    used = [event for event in events(ledger) if isinstance(event, KeysUsed)]
    assert [(event.first_row, event.last_row, len(event.keys)) for event in used] == [
        (1, 1000, 1000),
        (1001, 2000, 1000),
        (2001, 2501, 501),
    ]


def test_each_window_of_a_backlog_gets_its_own_event(ledger: Ledger) -> None:
    """A leader that was away settles what it missed window by window, from the watermark on."""
    logged = [a_row(seq, key=key_id(1)) for seq in range(1, 10)]
    assert settle(ledger, Rows(logged, windows=(3, 6, 9))) == 9
    assert [(event.first_row, event.last_row) for event in events(ledger) if isinstance(event, KeysUsed)] == [
        (1, 3),
        (4, 6),
        (7, 9),
    ]


def test_a_settlement_that_comes_second_changes_nothing(ledger: Ledger) -> None:
    """Two that read the same watermark race for the run's next version: the second finds it taken."""
    logged = [a_row(seq, key=key_id(1)) for seq in range(1, 4)]
    assert settle(ledger, Rows(logged, windows=(3,))) == 3
    assert settle(ledger, Rows(logged, windows=(3,))) == 0
    assert len(events(ledger)) == 2


def test_an_ended_run_is_closed_once(ledger: Ledger) -> None:
    """Its stream ends with the closing, however often the run is reported."""
    logged = [a_row(1, key=key_id(1))]
    settle(ledger, Rows(logged, windows=(1,)))
    rows = Rows([], windows=(), ended=[EndedRun(RUN, 2, 1)])
    settle(ledger, rows)
    settle(ledger, rows)
    assert [type(event) for event in events(ledger)] == [Started, KeysUsed, Closed]
    assert ledger.load(UsageRun, RUN).closed


class BrokenRows(Rows):
    """As `Rows`, with another run before the one, whose rows cannot be read."""

    def open_runs(self) -> Sequence[OpenRun]:
        """The broken one and the one run."""
        return [OpenRun(BROKEN, "alpha:8", NOON, 0, 0, (1,)), *super().open_runs()]

    def rows(self, run_id: RunId, after: int, through: int, limit: int) -> Sequence[LoggedRow]:
        """Its rows, which are none that there could be."""
        if run_id == BROKEN:
            raise ValueError("no row of ours")
        return super().rows(run_id, after, through, limit)


def test_a_run_that_cannot_be_settled_holds_up_no_other(ledger: Ledger) -> None:
    """The rows of the others are settled, runs that have ended are closed, and the fault is raised with whose it is."""
    other = RunId.from_entropy(entropy(3))
    ledger.append(UsageRun.start(other, by=origin(), host="alpha:9", started_at=NOON))
    rows = BrokenRows([a_row(1, key=key_id(1))], windows=(1,), ended=[EndedRun(other, 1, 0)])
    with pytest.raises(ValueError, match="no row of ours") as raised:
        settle(ledger, rows)
    assert raised.value.__notes__ == [f"of {BROKEN}"]
    assert [type(event) for event in events(ledger)] == [Started, KeysUsed]
    assert ledger.load(UsageRun, other).closed


def test_windows_are_ended_by_the_clock_that_is_given(ledger: Ledger) -> None:
    """What is over at ``now``, and what claims to end later than any window could."""
    rows = Rows([], windows=())
    settle(ledger, rows)
    assert rows.asked == [(NOON, NOON + 2 * WINDOW)]
