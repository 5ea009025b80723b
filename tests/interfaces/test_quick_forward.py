"""The quick door's instants: requests of a millisecond share one, and no key is accepted past its own end for that.

`test_forward.py` and `test_http_forward.py` have its answers, which are those of the doors behind it.
"""

import asyncio
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
from interfaces.http.edge import RequestLine
from interfaces.http.gate import Deliver, Gatekeeper, nobody_waits
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
        self.waiting: list[Any] = []
        self.deliver: Deliver = nobody_waits

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

    def submit(self, _: AccessKind, occurred_at: datetime, __: str, waiter: Any, deliver: Deliver) -> None:
        """Keeps the row's time, and who waits for it."""
        self.rows.append(occurred_at)
        self.waiting.append(waiter)
        self.deliver = deliver

    def await_batch(self, *_: object) -> None:
        """Nobody waits."""


def tell_nobody(*_: object) -> None:
    """The line of a request that nobody reads."""


def door(
    machine: Machine, *, expires_at: datetime, awaits_commit: bool = False, log_request: RequestLine = tell_nobody
) -> QuickForward:
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
        awaits_commit=awaits_commit,
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
        log_request=log_request,
    )


QUESTION: Any = {
    "type": "http",
    "method": "GET",
    "path": "/auth/forward",
    "client": ("192.0.2.7", 50000),
    "headers": [(b"authorization", b"Bearer " + RAW)],
}


def ask(quick: QuickForward) -> bool:
    """The usual question; whether the door answers it."""
    sent: list[dict[str, Any]] = []
    answered = quick.answer(QUESTION, sent.append)
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


def test_a_fault_of_ones_line_leaves_no_other_without_an_answer() -> None:
    """All whose rows are committed together are answered, though none of their lines can be told."""
    machine = Machine()
    told: list[str] = []

    def fail(_kind: object, _at: object, _ms: float, request_id: str) -> None:
        told.append(request_id)
        raise RuntimeError

    quick = door(machine, expires_at=NOON + timedelta(days=1), awaits_commit=True, log_request=fail)
    sent: list[dict[str, Any]] = []

    async def commit() -> None:
        quick.wake(asyncio.get_running_loop())
        assert all(quick.answer(QUESTION, sent.append) for _ in range(3))
        assert sent == []
        machine.deliver(machine.waiting, None)
        await asyncio.sleep(0)

    asyncio.run(commit())
    assert [message["status"] for message in sent if "status" in message] == [200, 200, 200]
    assert len(told) == 3
