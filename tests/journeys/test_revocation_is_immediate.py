"""A key that is ended is refused by every worker from the moment the answer is there."""

from collections.abc import Callable
from itertools import cycle
from threading import Event as Flag
from threading import Thread
from time import monotonic

import pytest

from tests.kit.http import Client
from tests.kit.service import DEADLINE_SECONDS, Service

pytestmark = pytest.mark.journey

WORKERS = 2
End = Callable[[Client, str], object]
ENDS: dict[str, End] = {
    "revoke": lambda owner, key_id: owner.done("POST", f"/api/keys/{key_id}/revoke", {"reason": "compromised"}),
    "rotate": lambda owner, key_id: owner.done("POST", f"/api/keys/{key_id}/rotate", {"grace_seconds": 0}),
    "disable": lambda owner, key_id: owner.done("POST", f"/api/keys/{key_id}/disable"),
}


class Insistent(Thread):
    """Uses a key over and over on one worker until it is stopped; ``uses``: when each was sent, and its status."""

    def __init__(self, client: Client, key: str) -> None:
        super().__init__()
        self.uses: list[tuple[float, int]] = []
        self.stop = Flag()
        self._client = client
        self._key = key

    def run(self) -> None:
        """Sends at least one request."""
        while True:
            sent = monotonic()
            self.uses.append((sent, self._client.get("/api/campaigns", key=self._key).status))
            if self.stop.is_set():
                return


@pytest.mark.parametrize("word", ENDS)
def test_no_use_is_accepted_after_the_answer(service: Service, full: bool, word: str) -> None:
    """Created, in use on both workers, ended through one of them: from the answer on both refuse, each time."""
    rounds = (200 if full else 40) if word == "revoke" else (50 if full else 8)
    owners = service.client_of_each_worker(service.demo_key)
    users = service.client_of_each_worker(service.demo_key)
    assert list(owners) == list(users)
    assert len(users) == WORKERS
    accepted = refused = 0
    for number, owner in zip(range(rounds), cycle(owners.values())):
        key = owner.done("POST", "/api/keys", {"name": f"Round {number}", "environment": "live"})
        before, after = one_round(list(users.values()), key["key"], lambda: ENDS[word](owner, key["id"]))  # noqa: B023 - called now
        assert set(before) == {200}, f"round {number}: {before}"
        assert set(after) == {401}, f"round {number}: {after}"
        accepted += len(before)
        refused += len(after)
    for run, client in users.items():
        assert service.run_of(client.get("/api/campaigns")) == run, "a connection moved to another worker"
    for client in (*owners.values(), *users.values()):
        client.close()
    print(f"{word}: {rounds} rounds on {WORKERS} workers, {accepted} uses before, {refused} after")  # noqa: T201 - figures


def one_round(users: list[Client], key: str, end: Callable[[], object]) -> tuple[list[int], list[int]]:
    """The statuses of uses before the end was asked for, and of those sent after its answer; each on every worker.

    The workers see the key in use all the while; what is sent between question and answer may go either way.
    """
    before = [user.get("/api/campaigns", key=key).status for user in users]
    threads = [Insistent(user, key) for user in users]
    for thread in threads:
        thread.start()
    end()
    answered = monotonic()
    for thread in threads:
        thread.stop.set()
        thread.join(DEADLINE_SECONDS)
    uses = [use for thread in threads for use in thread.uses]
    after = [status for sent, status in uses if sent > answered]
    assert {status for _, status in uses} <= {200, 401}
    return before, after + [user.get("/api/campaigns", key=key).status for user in users]
