"""kill -9 of a worker, of the leader and of PostgreSQL under load: which answers have their access rows afterwards.

KEYLEDGER_TEST_SEED repeats a run's choices; when exactly a kill strikes is the machine's own choice.
"""

import os
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, sleep

import psycopg
import pytest

from tests.kit.load import Load
from tests.kit.service import Service, eventually

pytestmark = pytest.mark.journey

KINDS = ("worker", "leader", "PostgreSQL")
DELAY_SECONDS_MAX = 0.5  # some flushes of a buffered log
LOSS_SECONDS = 0.2
"""What `buffered` may lose: the answers of a killed worker's last moments."""
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
                UNION ALL SELECT requests FROM usage.live WHERE key_id = %(key)s) AS counted)
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
        """Some time after the last recovery; returns when what was killed is back, and requests are answered again."""
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


def kinds(*, full: bool) -> list[str]:
    """What is killed, in turn: 30 times each, or in the short round twice."""
    return [*KINDS] * (30 if full else 2)


def test_every_answer_has_its_row(place: Path, full: bool) -> None:
    """`commit`: answers received ≤ rows ≤ answers + requests in flight, and the books balance, after every kill."""
    with scene(place, "commit") as running:
        load = running.load
        for kind in kinds(full=full):
            running.kill(kind)
            # What was answered before it is looked for is there.
            answered = {answer.request_id for answer in load.answers if answer.status == 200}
            assert answered <= running.rows()
            running.assert_balance()
        load.stop()
        rows = running.rows()
        answered = {answer.request_id for answer in load.answers if answer.status == 200}
        refused = {answer.request_id for answer in load.answers if answer.status == 503}
        assert answered <= rows
        # A row whose commit's own answer got lost may be that of a 503; any other without an answer was in flight.
        in_flight = rows - answered - refused
        assert len(in_flight) <= len(load.unanswered)
        eventually(running.is_settled, "all rows are settled, also those of killed workers")
    print(  # noqa: T201 - the figures
        f"commit: {running.told()}, {len(in_flight)} of these with rows; 503: {len(refused)}, {len(refused & rows)} "
        f"with rows; all {len(rows)} rows of the key settled, each once"
    )


def test_a_buffered_log_loses_no_more_than_a_flush(place: Path, full: bool) -> None:
    """`buffered`: what a kill loses are the last answers of the killed worker, of one flush; nothing else is lost."""
    with scene(place, "buffered") as running:
        load = running.load
        for kind in kinds(full=full):
            running.kill(kind)
            running.assert_balance()
        load.stop()
        last = {answer.line: answer.request_id for answer in load.answers if answer.status == 200}
        whole = set(last.values()) - {last.get(line) for line, _ in load.unanswered}
        # Rows are written in their order: when the last of each connection is there, so are those before.
        eventually(lambda: whole <= running.rows(), "what is buffered is written")
        lost = losses(load, running.rows(), running.rounds)
        eventually(running.is_settled, "all rows are settled")
    assert all(each.lost <= each.bound for each in lost), lost
    print(f"buffered: {running.told()}")  # noqa: T201 - the figures
    for kind in KINDS:
        of_kind = [each for each, kill in zip(lost, running.rounds, strict=True) if kill.kind == kind]
        seconds = [each.seconds for each in of_kind]
        print(  # noqa: T201 - as above
            f"{kind}: {sum(each.lost for each in of_kind)} answers without rows, at a kill at most "
            f"{max(each.lost for each in of_kind)} of {max(each.bound for each in of_kind)} that it might be; "
            f"of the last seconds: median {statistics.median(seconds):.3f}, max {max(seconds):.3f}"
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """What a kill has cost: ``lost`` answers without rows, ``bound`` that were given within LOSS_SECONDS of the end."""

    lost: int
    bound: int
    seconds: float


def losses(load: Load, rows: set[str], rounds: list[Round]) -> list[Loss]:
    """By kill; AssertionError for an answer that was lost without one, or before one that was not."""
    accepted = [answer for answer in load.answers if answer.status == 200]
    kept_until = {answer.line: answer.at for answer in accepted if answer.request_id in rows}
    lost = [answer for answer in accepted if answer.request_id not in rows]
    assert all(answer.at > kept_until.get(answer.line, 0.0) for answer in lost), "lost before one that is kept"
    found: list[Loss] = []
    for each, following in zip(rounds, [*rounds[1:], None], strict=True):
        until = following.at if following else float("inf")
        broke = {line for line, at in load.unanswered if each.at <= at < until}
        ended = max((answer.at for answer in accepted if answer.line in broke), default=each.at)
        own = [answer for answer in lost if answer.line in broke]
        window = [answer for answer in accepted if answer.line in broke and answer.at >= ended - LOSS_SECONDS]
        found.append(Loss(len(own), len(window), ended - min((answer.at for answer in own), default=ended)))
    assert sum(each.lost for each in found) == len(lost), "lost without a kill of its worker"
    return found
