"""A run's stream: each row settled once, in order, and nothing after the end."""

from dataclasses import replace

import pytest

from domain.ids import RunId
from domain.usage import KEYS_MAX, Closed, KeysUsed, KeyUses, SettledRows, Started, UsageRun, UsageStateError
from tests.kit.builders import NOON, account_id, entropy, key_id, origin

RUN = RunId.from_entropy(entropy(1))
KEY = KeyUses(key_id(1), account_id(1), 3, 1, NOON, NOON)
ROWS = SettledRows(
    first_row=1, last_row=5, rows=4, window_start=NOON, window_end=NOON, details_root="0" * 64, keys=(KEY,)
)


def a_run() -> UsageRun:
    return UsageRun.start(RUN, by=origin(), host="alpha:7", started_at=NOON)


def test_a_run_records_its_start_its_uses_and_its_end() -> None:
    """The three facts of a run, none of which belongs to one account."""
    run = a_run()
    run.settle(ROWS, by=origin())
    run.close(by=origin())
    run.close(by=origin())
    events = run.collect_events()
    assert [type(event) for event in events] == [Started, KeysUsed, Closed]
    assert {event.account_id for event in events if isinstance(event, Started | KeysUsed | Closed)} == {None}
    used = events[1]
    assert isinstance(used, KeysUsed)
    assert (used.first_row, used.last_row, used.rows, used.keys) == (1, 5, 4, (KEY,))


def test_rows_that_are_settled_cannot_be_settled_again() -> None:
    """The watermark moves forward only, and a closed run takes no more."""
    run = a_run()
    run.settle(ROWS, by=origin())
    with pytest.raises(UsageStateError):
        run.settle(ROWS, by=origin())
    with pytest.raises(UsageStateError):
        run.settle(replace(ROWS, first_row=5, last_row=9), by=origin())
    run.settle(replace(ROWS, first_row=7, last_row=10), by=origin())
    run.close(by=origin())
    with pytest.raises(UsageStateError):
        run.settle(replace(ROWS, first_row=11, last_row=14), by=origin())


def test_counts_that_cannot_be_are_refused() -> None:
    """No rows, more rows than numbers, and more keys than an event holds."""
    for wrong in (
        replace(ROWS, rows=0),
        replace(ROWS, rows=6),
        replace(ROWS, keys=(KEY,) * (KEYS_MAX + 1)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            a_run().settle(wrong, by=origin())


def test_a_resumed_run_goes_on_where_its_watermark_stands() -> None:
    """Resuming needs no events, and gives the next version and the same refusals."""
    run = UsageRun.resume(RUN, version=7, settled_through=5, as_of=NOON)
    with pytest.raises(UsageStateError):
        run.settle(ROWS, by=origin())
    run.settle(replace(ROWS, first_row=6, last_row=9), by=origin())
    (event,) = run.collect_events()
    assert isinstance(event, KeysUsed)
    assert (event.originator_id, event.originator_version) == (RUN, 8)
