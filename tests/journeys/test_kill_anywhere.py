"""kill -9 at random points: what was acknowledged is there, what was not is there whole or not at all.

KEYLEDGER_TEST_SEED repeats a round's choices; when exactly a kill strikes is the machine's own choice.
"""

import os
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Condition
from time import sleep
from typing import Any

import psycopg
import pytest

from tests.kit.books import half_made, rebuilt
from tests.kit.http import Client, NoAnswerError
from tests.kit.service import DEADLINE_SECONDS, Service, eventually

pytestmark = pytest.mark.journey

CALLERS = 3
DELAY_SECONDS_MAX = 0.25  # some calls long: where within a call the kill strikes is then a matter of chance
GRACE_SECONDS = 86_400
OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass(slots=True)
class Known:
    """What is known of a key. ``doubt``: the call on it that got no answer, None when all were answered."""

    key_id: str
    secret: str
    status: str = "active"
    replaced_by: str | None = None
    doubt: str | None = None


@dataclass(slots=True)
class Tally:
    """The calls of a round, counted by all callers; ``started`` wakes the killer."""

    calls: Counter[str] = field(default_factory=Counter[str])
    answered: Counter[str] = field(default_factory=Counter[str])
    unanswered: Counter[str] = field(default_factory=Counter[str])
    kept: Counter[str] = field(default_factory=Counter[str])
    started: Condition = field(default_factory=Condition)

    def start(self, word: str) -> None:
        """Counts a call that is about to be sent."""
        with self.started:
            self.calls[word] += 1
            self.started.notify_all()

    def wait_for(self, calls: int) -> None:
        """Waits until so many calls have been started."""
        with self.started:
            assert self.started.wait_for(lambda: self.calls.total() >= calls, DEADLINE_SECONDS)


class Caller:
    """Creates, rotates and revokes keys of its own, and knows after each answer what must be true from then on."""

    def __init__(self, name: str, client: Client, random: Random, tally: Tally) -> None:
        self.keys: dict[str, Known] = {}
        self.unanswered_names: list[str] = []
        self._names: Iterator[str] = (f"{name} {number}" for number in range(10_000))
        self._client = client
        self._random = random
        self._tally = tally

    def call_until_killed(self) -> None:
        """One call after another, until one gets no answer."""
        try:
            while True:
                self._call()
        except NoAnswerError:
            return

    def _call(self) -> None:
        active = [key for key in self.keys.values() if key.status == "active"]
        word = self._random.choices(["create", "rotate", "revoke"], [9, 6, 5])[0] if active else "create"
        self._tally.start(word)
        if word == "create":
            self._create()
        else:
            key = self._random.choice(active)
            key.doubt = word
            self._count_lost(word, self._rotate if word == "rotate" else self._revoke, key)
            key.doubt = None
        self._tally.answered[word] += 1

    def _count_lost(self, word: str, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except NoAnswerError:
            self._tally.unanswered[word] += 1
            raise

    def _create(self) -> None:
        name = next(self._names)
        self.unanswered_names.append(name)
        body = {"name": name, "environment": "live"}
        made = self._count_lost("create", self._client.done, "POST", "/api/keys", body)
        self.unanswered_names.remove(name)
        self.keys[made["id"]] = Known(made["id"], made["key"])

    def _rotate(self, key: Known) -> None:
        grace = self._random.choice([0, GRACE_SECONDS])
        body = {"grace_seconds": grace}
        made = self._client.done("POST", f"/api/keys/{key.key_id}/rotate", body)
        assert made["replaces"] == key.key_id
        key.status, key.replaced_by = ("rotating" if grace else "revoked"), made["id"]
        self.keys[made["id"]] = Known(made["id"], made["key"])

    def _revoke(self, key: Known) -> None:
        assert self._client.done("POST", f"/api/keys/{key.key_id}/revoke")["status"] == "revoked"
        key.status = "revoked"

    # -- after a restart

    def check(self) -> None:
        """Compares the service with all that is known; what was in doubt is known from then on."""
        listed = {body["id"]: body for body in self._client.pages("/api/keys")}
        for key in list(self.keys.values()):
            assert key.key_id in listed, f"{key} is lost"
            if key.doubt is not None:
                self._settle(key, listed[key.key_id])
            found = listed[key.key_id]
            assert (found["status"], found["replaced_by"]) == (key.status, key.replaced_by), f"{key}: {found}"
            use = self._client.get("/api/campaigns", key=key.secret)
            assert use.status == (401 if key.status == "revoked" else 200), f"{key}: {use}"
        self._recover_rotations()
        self._recover_creations({body["name"]: body for body in listed.values() if body["replaces"] is None})

    def _settle(self, key: Known, found: dict[str, Any]) -> None:
        """A call without an answer was carried out whole, or not at all."""
        untouched = (found["status"], found["replaced_by"]) == ("active", None)
        if not untouched:
            self._tally.kept[key.doubt or ""] += 1
            rotated = key.doubt == "rotate"
            assert (found["replaced_by"] is not None) == rotated
            assert found["status"] in ({"rotating", "revoked"} if rotated else {"revoked"})
            key.status, key.replaced_by = found["status"], found["replaced_by"]
        if key.doubt != "rotate" or untouched:
            key.doubt = None

    def _recover_rotations(self) -> None:
        """A rotation whose answer was lost is asked for again: its unseen successor gives way to one that is seen."""
        for key in list(self.keys.values()):
            if key.doubt is None:
                continue
            key.doubt = None
            if key.status == "rotating":
                unseen = key.replaced_by
                self._rotate(key)
                assert self._client.done("GET", f"/api/keys/{unseen}")["status"] == "revoked"

    def _recover_creations(self, listed: dict[str, dict[str, Any]]) -> None:
        """A key whose creating answer was lost is whole, when it is there: a rotation gives one that can be used."""
        for name in self.unanswered_names:
            if name in listed:
                self._tally.kept["create"] += 1
                made = self._client.done("POST", f"/api/keys/{listed[name]['id']}/rotate", {"grace_seconds": 0})
                assert made["name"] == name
                self.keys[made["id"]] = Known(made["id"], made["key"])
        self.unanswered_names.clear()


def test_no_kill_loses_or_halves_anything(place: Path, full: bool) -> None:
    """After each kill -9, of the service or of PostgreSQL with it: all that was acknowledged, and no key half made."""
    calls, kills = (200, 10) if full else (60, 4)
    seed = int(os.environ.get("KEYLEDGER_TEST_SEED", "0")) or Random().randrange(1, 2**32)  # noqa: S311 - no secret
    print(f"KEYLEDGER_TEST_SEED={seed}")  # noqa: T201 - to repeat a failure
    random = Random(seed)  # noqa: S311 - as above
    tally = Tally()
    killed = 0
    with ExitStack() as stack:
        service = stack.enter_context(Service(place, workers=2, settlement_window_seconds=1))
        clients = [stack.enter_context(service.client(service.demo_key)) for _ in range(CALLERS)]
        callers = [
            Caller(f"caller {number}", client, Random(seed + number), tally)  # noqa: S311 - as above
            for number, client in enumerate(clients)
        ]
        for kill in range(kills):
            victims = service.processes()
            random.shuffle(victims)
            killed += len(victims)
            with calling(callers), psycopg.connect(service.conninfo, autocommit=True) as listener:
                listener.execute("LISTEN ledger")
                tally.wait_for(calls * (kill + 1) // kills)
                if kill % 4 in {1, 2}:  # as soon as something is committed, which is before its answer
                    list(listener.notifies(timeout=0))  # what was committed until now
                    assert list(listener.notifies(timeout=DEADLINE_SECONDS, stop_after=1))
                else:
                    sleep(random.uniform(0, DELAY_SECONDS_MAX))
                service.kill(victims)
            if kill % 2:  # PostgreSQL goes, too: the next start recovers it
                service.kill_postgres()
            else:  # PostgreSQL stays, and the next start adopts it; meanwhile nobody writes
                assert_books_agree(service.conninfo)
            service.start()
            for caller in callers:
                caller.check()
        service.kill()
        assert_books_agree(service.conninfo)
    keys = sum(len(caller.keys) for caller in callers)
    print(  # noqa: T201 - the figures of the round
        f"{kills} kills of {killed} processes in {tally.calls.total()} calls: {dict(tally.answered)} acknowledged and "
        f"there; {dict(tally.unanswered)} unanswered, of these {dict(tally.kept)} there; {keys} keys whole"
    )
    assert tally.answered.total() + tally.unanswered.total() == tally.calls.total() >= calls


@contextmanager
def calling(callers: list[Caller]) -> Generator[None]:
    """The callers call, each in a thread of its own; the block must end with the service killed."""
    with ThreadPoolExecutor(len(callers)) as pool:
        ends = [pool.submit(caller.call_until_killed) for caller in callers]
        yield
        for end in ends:
            end.result(DEADLINE_SECONDS)


def assert_books_agree(conninfo: str) -> None:
    """With nobody left to write: no key is half made, and every view is what a rebuild makes of the ledger."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # The killed processes' last transactions still end, one way or the other.
        eventually(lambda: connection.execute(OTHERS).fetchone() == (0,), "the connections of the killed are gone")
    assert half_made(conninfo) == []
    before, after = rebuilt(conninfo)
    assert before == after
