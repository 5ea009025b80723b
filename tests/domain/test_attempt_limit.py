"""The limit of failed attempts: its bound, its promise of when to come back, and clocks that jump."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.attempt_limit import AttemptLimit, Decision, decide

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
INSTANT = timedelta(microseconds=1)

limits = st.builds(AttemptLimit, st.integers(1, 40), st.timedeltas(timedelta(milliseconds=1), timedelta(hours=1)))
gaps = st.lists(st.timedeltas(timedelta(), timedelta(seconds=90)), max_size=80)


def run(limit: AttemptLimit, times: list[datetime]) -> list[Decision]:
    decisions: list[Decision] = []
    state = None
    for time in times:
        decisions.append(decide(limit, state, time))
        state = decisions[-1].state
    return decisions


def at_gaps(gaps: list[timedelta]) -> list[datetime]:
    times = [NOW]
    for gap in gaps:
        times.append(times[-1] + gap)
    return times


def test_the_default_is_twenty_a_minute() -> None:
    """Twenty failures at once are answered, the 21st is refused, and one comes back after three seconds."""
    decisions = run(AttemptLimit(), [NOW] * 21)
    assert [decision.allowed for decision in decisions] == [True] * 20 + [False]
    assert decisions[-1].retry_after == timedelta(seconds=3)
    assert all(decision.retry_after is None for decision in decisions[:20])


@given(limits, gaps)
def test_no_stretch_of_time_allows_more_than_the_bound(limit: AttemptLimit, gaps: list[timedelta]) -> None:
    """In any stretch of time, the allowed are at most the limit and one more for each full share that passed."""
    times = at_gaps(gaps)
    allowed = [time for time, decision in zip(times, run(limit, times), strict=True) if decision.allowed]
    for first, start in enumerate(allowed):
        for last in range(first, len(allowed)):
            assert last - first + 1 <= limit.attempts + (allowed[last] - start) // limit.share


@given(limits, gaps)
def test_who_stays_within_an_even_rate_is_never_refused(limit: AttemptLimit, gaps: list[timedelta]) -> None:
    """Attempts that are at least one share apart are all allowed."""
    times = at_gaps([limit.share + gap for gap in gaps])
    assert all(decision.allowed for decision in run(limit, times))


@given(limits, gaps)
def test_retry_after_is_exact(limit: AttemptLimit, gaps: list[timedelta]) -> None:
    """A refused attempt is allowed after `retry_after` and not an instant before; the wait is at most one share."""
    times = at_gaps(gaps)
    for time, decision in zip(times, run(limit, times), strict=True):
        assert decision.allowed == (decision.retry_after is None)
        if decision.retry_after is not None:
            assert timedelta() < decision.retry_after <= limit.share
            assert decide(limit, decision.state, time + decision.retry_after).allowed
            assert not decide(limit, decision.state, time + decision.retry_after - INSTANT).allowed


@given(limits, st.integers(1, 200))
def test_refused_attempts_cost_nothing(limit: AttemptLimit, refused: int) -> None:
    """However often a refused network tries, its state stays and it is let in at the same moment."""
    full = run(limit, [NOW] * limit.attempts)[-1].state
    assert run(limit, [NOW] * (limit.attempts + refused))[-1].state == full


@given(limits, gaps)
def test_a_state_that_is_past_may_be_forgotten(limit: AttemptLimit, gaps: list[timedelta]) -> None:
    """From the instant of the state on, the network is judged as one that was never seen."""
    state = run(limit, at_gaps(gaps))[-1].state
    assert decide(limit, state, state) == decide(limit, None, state)


@given(limits, st.timedeltas(timedelta(), timedelta(days=400)))
def test_a_clock_set_back_locks_nobody_out(limit: AttemptLimit, back: timedelta) -> None:
    """After the clock was set back by any time, a wait is still at most one share, and the limit fills in a window."""
    state = run(limit, [NOW] * limit.attempts)[-1].state
    earlier = NOW - back
    decision = decide(limit, state, earlier)
    assert decision.retry_after is None or decision.retry_after <= limit.share
    assert decision.state <= earlier + limit.share * limit.attempts


@pytest.mark.parametrize(
    ("attempts", "window"), [(0, MINUTE), (-1, MINUTE), (1, timedelta()), (1, -MINUTE), (2, INSTANT)]
)
def test_a_limit_without_a_share_is_refused(attempts: int, window: timedelta) -> None:
    """No attempts, or no time for each of them, is no limit."""
    with pytest.raises(ValueError, match="at least one attempt"):
        AttemptLimit(attempts, window)
