"""The memory of networks over their limit: it spares the database a flood, and keeps nobody out longer than told."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from application.attempts import AttemptLimiter
from domain.attempt_limit import AttemptLimit, Decision, decide
from tests.kit.builders import NOON, SettableClock

CLIENT = ip_address("192.0.2.1")


@dataclass(slots=True)
class Counted:
    """What is counted, of one network, and how often it was asked."""

    limit: AttemptLimit = field(default_factory=lambda: AttemptLimit(attempts=1))
    state: datetime | None = None
    asked: int = 0

    def count(self, network: str, now: datetime) -> Decision:
        """The port's."""
        assert network
        self.asked += 1
        decision = decide(self.limit, self.state, now)
        self.state = decision.state
        return decision

    def forget(self, now: datetime) -> int:
        """The port's; nothing is forgotten."""
        assert now
        return 0


def test_a_blocked_network_is_remembered_until_its_wait_is_over() -> None:
    """It is told what is left of its wait, and counted again afterwards."""
    attempts, clock = Counted(), SettableClock()
    limiter = AttemptLimiter(attempts=attempts, clock=clock)
    assert limiter.count(CLIENT) is None
    assert limiter.count(CLIENT) == limiter.blocked_for(CLIENT) == timedelta(minutes=1)
    clock.advance(timedelta(seconds=45))
    assert limiter.blocked_for(CLIENT) == timedelta(seconds=15)
    clock.advance(timedelta(seconds=15))
    assert limiter.blocked_for(CLIENT) is None
    assert attempts.asked == 2


def test_a_clock_that_is_set_back_blocks_nobody_for_longer() -> None:
    """A wait that seems longer than the one that was given counts as past: the database is asked again."""
    clock = SettableClock()
    limiter = AttemptLimiter(attempts=Counted(), clock=clock)
    assert [limiter.count(CLIENT), limiter.count(CLIENT)] == [None, timedelta(minutes=1)]
    clock.at = NOON - timedelta(hours=1)
    assert limiter.blocked_for(CLIENT) is None
    assert limiter.count(CLIENT) == timedelta(minutes=1)
