"""How many failed attempts one client network has left: rate arithmetic, with no clock and no store in it.

The generic cell rate algorithm (ITU-T I.371, annex A), with a burst of the whole limit. All it remembers of a network
is one instant, so a row with one column, updated in one statement, holds it for all processes together.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class AttemptLimit:
    """So many failed attempts a window: all of them at once, and each given back an even share of the window later.

    Within any stretch of time w no more than `attempts` + w / (window / attempts) are allowed. ValueError for fewer
    than one attempt, or for a window in which an attempt's share is under a microsecond.
    """

    attempts: int = 20
    window: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.window // self.attempts <= timedelta():
            raise ValueError("the limit is at least one attempt, each with a share of the window")

    @property
    def share(self) -> timedelta:
        """The time that gives one attempt back."""
        return self.window / self.attempts


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one failed attempt."""

    allowed: bool
    retry_after: timedelta | None
    """How long until one would be allowed, more than nothing; None when this one is."""
    state: datetime
    """To be kept until the next one: the instant at which the whole limit is there again. Once past, forget it."""


def decide(limit: AttemptLimit, state: datetime | None, now: datetime) -> Decision:
    """Count one failed attempt; `state` is the last decision's, None for a network that has made none.

    A refused attempt changes nothing: whoever keeps trying is let in no later than who waits.
    """
    share = limit.share
    full = share * limit.attempts
    # A clock that was set back must not lock a network out for longer than the window.
    replenished_at = now if state is None else min(max(state, now), now + full)
    wait = replenished_at + share - full - now
    if wait > timedelta():
        return Decision(allowed=False, retry_after=wait, state=replenished_at)
    return Decision(allowed=True, retry_after=None, state=replenished_at + share)
