"""The quick door's instants: requests of a millisecond share one, and no key is accepted past its own end for that.

`test_forward.py` and `test_http_forward.py` have its answers, which are those of the doors behind it.
"""

from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from application.authentication import Authenticator
from application.usage_ports import AccessKind
from application.verified_keys import VerifiedKey, VerifiedKeys
from domain.credential import Environment
from domain.verdict import open_until
from interfaces.http.gate import Gatekeeper
from interfaces.http.quick import SHARED_SECONDS, QuickForward
from tests.kit.builders import NOON
from tests.kit.verified import facts

RAW = b"sk_live_7Hq2mB9xT"
UNUSED: Any = None


class Machine:
    """A clock that moves when told to, and an access log that keeps its rows."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.rows: list[datetime] = []

    def elapsed(self) -> float:
        """Seconds since noon."""
        return self.seconds

    def at(self, elapsed: float) -> datetime:
        """The instant of that second."""
        return NOON + timedelta(seconds=elapsed)

    def now(self) -> datetime:
        """This instant."""
        return self.at(self.seconds)

    def queued(self) -> int:
        """Nothing waits."""
        return 0

    def submit(self, _: AccessKind, occurred_at: datetime, *__: object) -> None:
        """Keeps the row's time."""
        self.rows.append(occurred_at)

    def await_batch(self, *_: object) -> None:
        """Nobody waits."""


def door(machine: Machine, *, expires_at: datetime) -> QuickForward:
    """The door of a server that remembers one key."""
    environments = frozenset(Environment)
    verified = VerifiedKeys(capacity=1, fingerprint=bytes, elapsed=machine.elapsed)
    known = facts(expires_at=expires_at)
    verified.remember(RAW, VerifiedKey(known, "hash", open_until(known, environments)), read_at=1)
    verified.extend(float("inf"))
    authenticator = Authenticator(
        keys=UNUSED, verified=verified, hashes=UNUSED, verifiers=UNUSED, clock=machine, environments=environments
    )
    keeper = Gatekeeper(
        authenticator=authenticator,
        limiter=UNUSED,
        access_log=machine,
        awaits_commit=False,
        clock=machine,
        address_text=str,
        threads=UNUSED,
        limiter_threads=UNUSED,
        foreign_threads=UNUSED,
    )
    return QuickForward(
        keeper,
        clock=machine,
        trusted_proxies=UNUSED,
        new_request_id=lambda: "req_1",
        log_request=lambda *_: None,
    )


def ask(quick: QuickForward) -> bool:
    """The usual question; whether the door answers it."""
    sent: list[dict[str, Any]] = []
    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": "/auth/forward",
        "client": ("192.0.2.7", 50000),
        "headers": [(b"authorization", b"Bearer " + RAW)],
    }
    answered = quick.answer(scope, sent.append)
    assert [message.get("status") for message in sent] == ([200, None] if answered else [])
    return answered


@given(
    pauses=st.lists(st.integers(0, 1500), min_size=1, max_size=12),
    end=st.integers(0, 8000),
)
def test_a_key_is_accepted_before_its_end_alone(pauses: list[int], end: int) -> None:
    """Microseconds between questions, and until the key's end: what the door answers itself is before that end.

    Its row is at most a shared instant older than its question, and never younger; a shared instant before the end and
    earlier the door answers each itself.
    """
    machine = Machine()
    expires_at = NOON + timedelta(microseconds=end)
    quick = door(machine, expires_at=expires_at)
    shared = timedelta(seconds=SHARED_SECONDS, microseconds=1)  # times are rounded
    for micros in accumulate(pauses):
        machine.seconds = micros / 1e6
        rows = len(machine.rows)
        if not ask(quick):
            assert len(machine.rows) == rows
            assert machine.now() >= expires_at - shared
        else:
            assert machine.now() < expires_at
            assert len(machine.rows) == rows + 1
            assert timedelta(0) <= machine.now() - machine.rows[-1] <= shared
