"""Failed authentication attempts are rate-limited, for each client network, over all processes together.

A network that is over its limit is remembered here until it may try again, so that a flood costs memory reads and
nothing else. A valid key is never asked about its network.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

from application.ports import Attempts, Clock
from domain.access import Address, client_network
from domain.ids import AccountId

REMEMBERED_MAX = 10_000


class AttemptLimiter:
    """Answers how long a refused client has to wait, None when it may be told of its refusal."""

    def __init__(self, *, attempts: Attempts, clock: Clock) -> None:
        self._attempts = attempts
        self._clock = clock
        self._blocked: OrderedDict[str, tuple[datetime, timedelta]] = OrderedDict()

    def blocked_for(self, client: Address | None, told_by: AccountId | None = None) -> timedelta | None:
        """The wait of a network known here to be over its limit; from memory. ``told_by`` as for `count`."""
        if client is None or not self._blocked:
            return None
        network = _counted_as(client, told_by)
        blocked = self._blocked.get(network)
        if blocked is None:
            return None
        until, given = blocked
        wait = until - self._clock.now()
        # A clock that was set back must not lock a network out for longer than it was told.
        if timedelta() < wait <= given:
            return wait
        self._blocked.pop(network, None)
        return None

    def count(self, client: Address | None, told_by: AccountId | None = None) -> timedelta | None:
        """Counts one failed attempt; the wait when it was one too many. One round-trip to the database.

        A client without an address cannot be told from others and is not limited. ``told_by``: the account whose
        service names the client, and could name any; it is counted apart, for that account alone. None: we see it.
        """
        if client is None:
            return None
        network = _counted_as(client, told_by)
        now = self._clock.now()
        decision = self._attempts.count(network, now)
        if decision.retry_after is None:
            return None
        self._blocked[network] = now + decision.retry_after, decision.retry_after
        if len(self._blocked) > REMEMBERED_MAX:
            self._blocked.popitem(last=False)
        return decision.retry_after


def _counted_as(client: Address, told_by: AccountId | None) -> str:
    network = client_network(client)
    return network if told_by is None else f"{told_by} {network}"
