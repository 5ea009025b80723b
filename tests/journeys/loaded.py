"""A service under load that something is done to, and whether its access rows, counts and events agree afterwards."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, sleep, time

import psycopg

from interfaces.serve import QUICK_END_SECONDS, QUICK_ENDS_MAX
from tests.kit.load import Load
from tests.kit.service import Service, eventually

DELAY_SECONDS_MAX = 0.5  # some flushes of a buffered log
OLD_SECONDS = QUICK_END_SECONDS + 1.5  # the system tells a process's age to the second
OF_THE_KEY = "SELECT request_id FROM usage.access_log WHERE key_id = %(key)s"
# One statement, so one snapshot: it holds at any moment, whoever writes and settles.
BALANCE = """
    SELECT (SELECT count(*) FROM usage.access_log),
           (SELECT coalesce(sum((convert_from(state, 'UTF8')::json ->> 'rows')::bigint), 0)
            FROM ledger.events WHERE topic = 'keys.used'),
           (SELECT count(*) FROM usage.access_log AS l LEFT JOIN usage.runs AS r ON r.run_id = l.run_id
            WHERE l.seq > coalesce(r.settled_through, 0)),
           (SELECT count(*) FROM usage.access_log WHERE key_id = %(key)s AND accepted),
           (SELECT coalesce(sum(requests), 0) FROM (
                SELECT requests FROM usage.totals WHERE key_id = %(key)s
                UNION ALL SELECT requests FROM usage.live_counts WHERE key_id = %(key)s) AS counted)
"""


@dataclass(slots=True)
class Round:
    """One kill, and when it struck."""

    kind: str
    at: float


@dataclass(slots=True)
class Scene:
    """A service, load on one key of it, and the kills so far."""

    service: Service
    load: Load
    key_id: str
    random: Random
    rounds: list[Round] = field(default_factory=list[Round])

    def kill(self, kind: str) -> None:
        """Some time after the last recovery; returns when what was killed is back, and requests are answered again.

        Not so often that it looks like a process that cannot live: that the supervisor gives up.
        """
        sleep(self.random.uniform(0, DELAY_SECONDS_MAX))  # when it strikes is a matter of chance
        service, load = self.service, self.load
        if kind == "PostgreSQL":
            old: set[int | None] = {service.postmaster()}
            self.rounds.append(Round(kind, monotonic()))
            service.kill_postgres()
            eventually(lambda: service.postmaster() not in {None, *old}, "PostgreSQL is back")
        else:
            there = service.workers if kind == "worker" else service.background
            before = there()
            victim = self.random.choice(before)
            if sum(each.kind == kind for each in self.rounds) % QUICK_ENDS_MAX == QUICK_ENDS_MAX - 1:
                eventually(lambda: time() - victim.create_time() > OLD_SECONDS, "it has lived for a while")
            self.rounds.append(Round(kind, monotonic()))
            victim.kill()
            eventually(
                lambda: len(now := there()) == len(before) and victim.pid not in {each.pid for each in now},
                f"the {kind} is replaced",
            )
        since = len(load.answers)
        eventually(lambda: load.count(since=since) >= 4 * load.callers, "requests are answered again")

    def rows(self) -> set[str]:
        """The request ids of the key's rows; none has two."""
        with psycopg.connect(self.service.conninfo) as connection:
            ids = [row[0] for row in connection.execute(OF_THE_KEY, {"key": self.key_id})]
        assert len(ids) == len(set(ids)), "a request has two rows"
        return set(ids)

    def is_settled(self) -> bool:
        """Whether every row is."""
        rows, settled = self.assert_balance()
        return rows == settled

    def assert_balance(self) -> tuple[int, int]:
        """Events and unsettled rows are the rows, and the key's counts its rows; the numbers of all and of settled."""
        with psycopg.connect(self.service.conninfo) as connection:
            row = connection.execute(BALANCE, {"key": self.key_id}).fetchone()
        assert row is not None
        rows, settled, unsettled, accepted, counted = map(int, row)
        assert settled + unsettled == rows
        assert accepted == counted
        return rows, settled

    def told(self) -> str:
        """What has happened."""
        kills = dict(Counter(each.kind for each in self.rounds))
        return f"kills {kills}, {self.load.count()} answers, {len(self.load.unanswered)} requests without one"


@contextmanager
def scene(place: Path, durability: str) -> Iterator[Scene]:
    """Two workers, and load on a key."""
    seed = int(os.environ.get("KEYLEDGER_TEST_SEED", "0")) or Random().randrange(1, 2**32)  # noqa: S311 - no secret
    print(f"KEYLEDGER_TEST_SEED={seed}")  # noqa: T201 - to repeat a failure
    settings = {"access_log_durability": durability, "settlement_window_seconds": 1, "log_format": "json"}
    with Service(place, workers=2, **settings) as service:
        with service.client(service.demo_key) as owner:
            made = owner.done("POST", "/api/keys", {"name": "Loaded", "environment": "live"})
        with Load(service.port, made["key"]) as load:
            running = Scene(service, load, made["id"], Random(seed))  # noqa: S311 - as above
            eventually(lambda: load.count() >= 4 * load.callers, "requests are answered")
            yield running
    assert {answer.status for answer in load.answers} <= {200, 503}
