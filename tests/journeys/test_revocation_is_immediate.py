"""A key that is ended is refused by every worker from the moment the answer is there."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from threading import Event as Flag
from threading import Thread
from time import monotonic

import psutil
import psycopg
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
    owners, users, probes = (service.client_of_each_worker(service.demo_key) for _ in range(3))
    assert list(owners) == list(users) == list(probes)
    assert len(owners) == WORKERS
    accepted = refused = 0
    for number, run in zip(range(rounds), cycle(owners)):
        owner = owners[run]
        key = owner.done("POST", "/api/keys", {"name": f"Round {number}", "environment": "live"})
        # The worker that answered is asked last: the others have had less time to learn of it.
        in_turn = [*(probe for other, probe in probes.items() if other != run), probes[run]]
        round_ = Round(list(users.values()), in_turn, key["key"])
        before, after = round_.play(lambda: ENDS[word](owner, key["id"]))  # noqa: B023 - called now
        assert set(before) == {200}, f"round {number}: {before}"
        assert set(after) == {401}, f"round {number}: {after}"
        accepted += len(before)
        refused += len(after)
    for run, client in probes.items():
        assert service.run_of(client.get("/api/campaigns")) == run, "a connection moved to another worker"
    for client in (*owners.values(), *users.values(), *probes.values()):
        client.close()
    print(f"{word}: {rounds} rounds on {WORKERS} workers, {accepted} uses before, {refused} after")  # noqa: T201 - figures


def test_a_stopped_worker_holds_up_no_revoke_and_refuses_when_it_goes_on(service: Service) -> None:
    """The other is told, and counted; what it is asked while it stands still, after the answer, it refuses."""
    owners, users = (service.client_of_each_worker(service.demo_key) for _ in range(2))
    (owner, _), (run, user) = owners.values(), list(users.items())[1]
    key = owner.done("POST", "/api/keys", {"name": "Beside a stopped worker", "environment": "live"})
    assert user.get("/api/campaigns", key=key["key"]).status == 200
    stopped = worker_with(run, service)
    statuses: list[int] = []
    use = Thread(target=lambda: statuses.append(user.get("/api/campaigns", key=key["key"]).status))
    stopped.suspend()
    try:
        receipt = owner.done("POST", f"/api/keys/{key['id']}/revoke")["receipt"]
        use.start()
        assert stopped.status() == psutil.STATUS_STOPPED
    finally:
        stopped.resume()
    use.join(DEADLINE_SECONDS)
    assert receipt["processes"] == WORKERS
    assert statuses == [401]
    for client in (*owners.values(), *users.values()):
        client.close()


def worker_with(run: str, service: Service) -> psutil.Process:
    """The process that names itself so."""
    with psycopg.connect(service.conninfo) as connection:
        row = connection.execute("SELECT host FROM serving.processes WHERE process_id = %s", [run]).fetchone()
    assert row is not None
    return psutil.Process(int(row[0].rpartition(":")[2]))


@dataclass(frozen=True, slots=True)
class Round:
    """One key's end. ``users`` use it on each worker all the while, ``probes`` at once after the answer."""

    users: list[Client]
    probes: list[Client]
    key: str

    def play(self, end: Callable[[], object]) -> tuple[list[int], list[int]]:
        """The statuses of uses before the end was asked for, and of those sent after its answer, each on every worker.

        What is sent between question and answer may go either way.
        """
        before = [probe.get("/api/campaigns", key=self.key).status for probe in self.probes]
        threads = [Insistent(user, self.key) for user in self.users]
        for thread in threads:
            thread.start()
        end()
        answered = monotonic()
        after = [probe.get("/api/campaigns", key=self.key).status for probe in self.probes]
        for thread in threads:
            thread.stop.set()
            thread.join(DEADLINE_SECONDS)
        uses = [use for thread in threads for use in thread.uses]
        assert {status for _, status in uses} <= {200, 401}
        return before, after + [status for sent, status in uses if sent > answered]
