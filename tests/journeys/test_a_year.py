"""A year in minutes: keys with owners of every manner, two schedulers, and a crash at every edge of every reaction."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import cycle, islice
from threading import Lock, Thread
from typing import Any, cast

import psycopg
import pytest

from application.accounts import AccountManagement
from application.keys import KeyChange, KeyManagement, NewKey
from domain.access import Plan
from domain.api_key import RevocationReason
from domain.credential import Environment
from domain.events import Origin
from domain.ids import AccountId, KeyId, RunId
from domain.mail_address import MailAddress
from domain.naming import Name
from domain.usage import KeyUses, SettledRows, UsageRun
from infrastructure.outbox import OutboxFollower
from infrastructure.postgres.pool import Database
from interfaces.bootstrap import management, open_core
from interfaces.bootstrap.core import Core
from interfaces.bootstrap.outbox import channels
from interfaces.settings import Settings
from tests.journeys.year import DAY, OWNERS, POSTPONED_AGE, Generation, Owner, generations
from tests.kit.books import rebuilt
from tests.kit.builders import NOON, SettableClock
from tests.kit.http_server import QuickVerifiers
from tests.kit.workflow import Crashed, CrashingBoundary, Scheduler

pytestmark = pytest.mark.journey

CLAIM = timedelta(seconds=31)
AFTERNOON = timedelta(hours=1)
TOLD = """
    SELECT e.topic, convert_from(e.state, 'UTF8') FROM ledger.events AS e
    WHERE e.topic IN ('rotation.notified', 'rotation.reminded', 'rotation.retiring_soon', 'rotation.retired')
    ORDER BY e.position
"""
MAILED = """
    SELECT payload ->> 'thing_id', kind, count(*) FROM outbox.messages
    WHERE channel = 'email' AND kind IN ('rotation_due', 'rotation_reminder', 'retiring_soon', 'retired')
    GROUP BY 1, 2
"""
KINDS = {"due": "rotation_due", "reminder": "rotation_reminder", "soon": "retiring_soon", "retired": "retired"}
STANDING = "SELECT state, step, count(*) FROM workflow.processes GROUP BY state, step"
OVERDUE = "SELECT count(*) FROM workflow.timers WHERE due_at <= %(now)s"
HALF_TOLD = """
    SELECT stream_id FROM ledger.events WHERE stream_id LIKE 'rot\\_%' GROUP BY stream_id
    HAVING (array_agg(topic ORDER BY version))[1] <> 'rotation.began'
        OR min(version) <> 1 OR max(version) <> count(*)
        OR count(*) FILTER (WHERE topic = 'rotation.closed') > 1
        OR count(*) FILTER (WHERE topic LIKE 'workflow.%' AND topic <> 'workflow.scheduled') > 0
"""


@dataclass(slots=True)
class Line:
    """A key and its successors, in life: the model's generations and the service's ids."""

    manner: str
    account_id: AccountId
    plan: list[Generation]
    ids: dict[int, KeyId] = field(default_factory=dict)
    unseen: list[KeyId] = field(default_factory=list)


@dataclass(slots=True)
class World:
    """The owners' side: what they do on a day, through the use cases."""

    core: Core
    clock: SettableClock
    keys: KeyManagement
    accounts: AccountManagement
    lines: list[Line] = field(default_factory=list)

    def by(self) -> Origin:
        """An owner, now."""
        return Origin("key:owner", "req_0000000000000000000001", self.clock.now())

    def people(self, count: int, last_day: int) -> None:
        """That many owners of all manners, born over the first two months."""
        for number, manner in enumerate(islice(cycle(OWNERS), count)):
            account = self.accounts.open(
                name=Name(manner), email=MailAddress(f"{manner}{number}@example.com"), plan=Plan.SCALE, by=self.by()
            )
            plan = list(generations(OWNERS[manner], born=number * 7 % 60, last_day=last_day))
            self.lines.append(Line(manner, account.account_id, plan))

    def act(self, day: int) -> None:
        """What all owners do at noon of that day; the uses settle at once."""
        used: list[tuple[KeyId, AccountId]] = []
        for line in self.lines:
            for key in line.plan:
                if key.born <= day:
                    self._act(line, key, day)
            used += [(key_id, line.account_id) for key_id in self._used(line, day)]
        self._settle(used)

    def _act(self, line: Line, key: Generation, day: int) -> None:
        owner, account_id = key.owner, line.account_id
        if key.number == 0 and day == key.born:
            expires = None if owner.expires is None else NOON + (key.due + owner.expires) * DAY
            new = NewKey(name=Name(line.manner), environment=Environment.LIVE, expires_at=expires)
            line.ids[0] = self.keys.create(account_id=account_id, new=new, by=self.by()).key.view.key_id
        key_id, since_due = line.ids[key.number], day - key.due
        if owner.postpones == since_due:
            change = KeyChange(rotation_due_days=POSTPONED_AGE)
            self.keys.change(account_id=account_id, key_id=key_id, change=change, by=self.by())
        if owner.disabled is not None and since_due == owner.disabled[0]:
            self.keys.disable(account_id=account_id, key_id=key_id, by=self.by())
        if owner.disabled is not None and since_due == owner.disabled[1]:
            self.keys.enable(account_id=account_id, key_id=key_id, by=self.by())
        if owner.revokes == since_due:
            self.keys.revoke(
                account_id=account_id, key_id=key_id, reason=RevocationReason.UNUSED, note=None, by=self.by()
            )
        if owner.rotates is not None:
            self._overlap(line, key, since_due - owner.rotates)

    def _overlap(self, line: Line, key: Generation, since: int) -> None:
        owner, successor = key.owner, key.number + 1
        if since in {0, owner.again}:
            issued = self.keys.rotate(
                account_id=line.account_id,
                key_id=line.ids[key.number],
                grace=owner.grace_days * DAY,
                grace_starts=owner.starts,
                compromised=owner.compromised,
                by=self.by(),
            )
            if since:
                line.unseen.append(line.ids[successor])
            line.ids[successor] = issued.key.view.key_id
        if owner.extends is not None and since == owner.extends[0]:
            grace = owner.extends[1] * DAY
            self.keys.extend_grace(account_id=line.account_id, key_id=line.ids[key.number], grace=grace, by=self.by())

    def _used(self, line: Line, day: int) -> Iterator[KeyId]:
        for key in line.plan:
            if key.number not in line.ids or not _is_used(key.owner, line.plan, key, day):
                continue
            yield line.ids[key.number]

    def _settle(self, used: list[tuple[KeyId, AccountId]]) -> None:
        if not used:
            return
        at = self.clock.now()
        by = Origin("system:settlement", "req_0000000000000000000002", at)
        run = UsageRun.start(self.core.entropy.new(RunId), by=by, host="year", started_at=at)
        uses = tuple(
            KeyUses(
                key_id=key_id, account_id=account_id, requests=1, failed_attempts=0, first_used_at=at, last_used_at=at
            )
            for key_id, account_id in used
        )
        rows = len(uses)
        settled = SettledRows(
            first_row=1, last_row=rows, rows=rows, window_start=at, window_end=at, details_root="00" * 32, keys=uses
        )
        run.settle(settled, by=by)
        run.close(by=by)
        self.core.ledger.append(run)


def _is_used(owner: Owner, plan: list[Generation], key: Generation, day: int) -> bool:
    """Whether the key is used on that day: from its beginning as a successor to its end as a predecessor."""
    before = plan[key.number - 1] if key.number else None
    if (
        before is not None
        and before.owner.rotates is not None
        and day < before.due + before.owner.rotates + before.owner.new_from
    ):
        return False
    if owner.rotates is None:
        return key.status(day) in {"active", "rotation_due"}
    return day <= key.due + owner.rotates + owner.old_until and key.status(day) != "revoked"


class CrashesEverywhere:
    """Crashes at each edge of each reaction's commit, the first time that anybody comes to it."""

    def __init__(self) -> None:
        self.edges: set[str] = set()
        self._lock = Lock()

    def __call__(self, edge: str) -> bool:
        """Whether nobody has come to it."""
        with self._lock:
            new = edge not in self.edges
            self.edges.add(edge)
            return new


class Leader:
    """A background process that is started again whenever it crashes, on a pool of its own."""

    def __init__(self, conninfo: str, clock: SettableClock, crashes: CrashesEverywhere, stack: ExitStack) -> None:
        self._database = stack.enter_context(Database(conninfo, size_max=3))
        self._clock = clock
        self._crashes = crashes
        self.crashed = 0
        self.troubles: list[BaseException | str] = []

    def sweep(self) -> None:
        """Sweeps until nothing crashes."""
        try:
            while not self._sweeps():
                self.crashed += 1
                self._clock.advance(CLAIM)
        except Exception as error:  # noqa: BLE001 - told by the test, which this thread is not
            self.troubles.append(error)

    def _sweeps(self) -> bool:
        boundary = CrashingBoundary(crashes=self._crashes)
        try:
            Scheduler(self._database, clock=self._clock, boundary=boundary).sweep()
        except Crashed:
            return False
        finally:
            self.troubles += boundary.failures
        return True


@pytest.fixture
def world(conninfo: str) -> Iterator[World]:
    clock = SettableClock(NOON)
    settings = Settings(database_url=conninfo, secret_keys=("5e" * 32,), database_connections=3)
    with ExitStack() as stack:
        opened = open_core(settings, conninfo, stack)
        core = replace(opened, verifiers=cast("Any", QuickVerifiers()), clock=cast("Any", clock))
        manage = management(core)
        yield World(core, clock, manage.keys, manage.accounts)


def test_every_owner_is_told_what_the_model_says(conninfo: str, world: World, full: bool) -> None:
    """Every key ends as the model says, each notice is told once, on its day, and the ledger has the whole story."""
    days, owners = (400, 200) if full else (220, len(OWNERS))
    crashes = CrashesEverywhere()
    with ExitStack() as stack:
        email = next(channel for channel in channels(world.core) if channel.name == "email")
        outboxes = [OutboxFollower(world.core.database, world.core.recorder, email, world.clock) for _ in range(2)]
        for outbox in outboxes:
            outbox.catch_up()
        world.people(owners, days)
        leaders = [Leader(conninfo, world.clock, crashes, stack) for _ in range(2)]
        for day in range(days + 1):
            world.clock.at = NOON + day * DAY
            world.act(day)
            world.clock.at = NOON + day * DAY + AFTERNOON
            threads = [
                Thread(target=work)
                for work in (*(leader.sweep for leader in leaders), *(_drain(outbox) for outbox in outboxes))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not [trouble for leader in leaders for trouble in leader.troubles], day
        for outbox in outboxes:
            _drain(outbox)()
    model = expected(world, days)
    with psycopg.connect(conninfo) as connection:
        told = [notice(topic, json.loads(state)) for topic, state in connection.execute(TOLD)]
        assert sorted(told) == sorted(model)
        mailed = Counter({(key_id, kind): count for key_id, kind, count in connection.execute(MAILED)})
        assert mailed == Counter(
            (key_id, KINDS[what.partition(" ")[0]]) for key_id, _, what in model if what != "retired compromised"
        )
        assert connection.execute(HALF_TOLD).fetchall() == []
        assert connection.execute(OVERDUE, {"now": world.clock.at}).fetchall() == [(0,)]
        standing = connection.execute(STANDING).fetchall()
    statuses(world, days)
    before, after = rebuilt(conninfo)
    assert before == after
    crashed = sum(leader.crashed for leader in leaders)
    assert crashed == len(crashes.edges)
    print(  # noqa: T201 - the figures
        f"\n{days} days, {owners} owners, {len(model)} notices, {crashed} crashes, one at each edge of "
        f"{len(crashes.edges) // 2} reactions; processes: {sorted(standing)}"
    )


def _drain(outbox: OutboxFollower) -> Any:
    def drain() -> None:
        while outbox.catch_up():
            pass

    return drain


def expected(world: World, days: int) -> list[tuple[str, int, str]]:
    """Every notice of the model: key, day, words."""
    return [
        (str(line.ids[key.number]), day, what)
        for line in world.lines
        for key in line.plan
        for day, what in key.told(days)
    ]


def notice(topic: str, state: dict[str, Any]) -> tuple[str, int, str]:
    """An event of the ledger in the model's words."""
    day = (datetime.fromisoformat(state["timestamp"]) - NOON).days
    words = {
        "rotation.notified": lambda: "due",
        "rotation.reminded": lambda: f"reminder {state['day']}",
        "rotation.retiring_soon": lambda: f"soon {'in use' if state['successor_used'] else 'unused'}",
        "rotation.retired": lambda: f"retired {state['reason']}",
    }[topic]()
    return state["key_id"], day, words


def statuses(world: World, day: int) -> None:
    """Every key has the model's status, and every successor that nobody saw is revoked."""
    for line in world.lines:
        for key in line.plan:
            managed = world.keys.get(account_id=line.account_id, key_id=line.ids[key.number])
            assert managed.status.value == key.status(day), (line.manner, key.number)
        for key_id in line.unseen:
            assert world.keys.get(account_id=line.account_id, key_id=key_id).status.value == "revoked"
