"""How `keyledger serve` starts its processes again."""

from interfaces.serve import PAUSE_SECONDS_MAX, QUICK_END_SECONDS, QuickEnds


def test_pauses_grow_with_quick_ends_and_are_bounded() -> None:
    """1, 2, 4, 8, 16, then half a minute for ever; a life of its length begins anew."""
    ends = QuickEnds()
    pauses: list[int] = []
    for _ in range(8):
        ends.add(0.5)
        pauses.append(ends.pause_seconds)
    assert pauses == [1, 2, 4, 8, 16, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX]
    ends.add(QUICK_END_SECONDS)
    assert ends.pause_seconds == 0
    ends.add(0.5)
    assert ends.pause_seconds == 1
