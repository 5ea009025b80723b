"""Webhooks that fail again and again: each failure is dealt with once, with a crash at every edge of every reaction."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import psycopg
import pytest

from application.webhook_delivery import RETRIES, Answered
from application.webhooks import EndpointChange
from infrastructure.outbox import Channel, OutboxFollower
from infrastructure.postgres.notices import NoticeSource
from infrastructure.postgres.pool import Database
from tests.kit.builders import a_key, account_id, origin
from tests.kit.hooks import Hooks
from tests.kit.outbox import ScriptedCarrier
from tests.kit.workflow import Crashed, CrashingBoundary

pytestmark = pytest.mark.journey

GONE = Answered(410, None)
BROKEN = Answered(500, None)


@pytest.fixture
def hooks(database: Database, conninfo: str) -> Iterator[Hooks]:
    made = Hooks(database, conninfo)
    with made.ledger:
        yield made


def test_many_failures_are_each_dealt_with_once_with_a_crash_at_every_edge(hooks: Hooks, full: bool) -> None:
    """Endpoints that are gone and that go on failing, enabled again and again: as many ends, mails and reasons."""
    endpoints, rounds = (40, 10) if full else (6, 2)
    ids = [hooks.endpoint().endpoint.endpoint_id for _ in range(endpoints)]
    email = OutboxFollower(
        hooks.database, hooks.recorder, Channel("email", NoticeSource(), ScriptedCarrier()), hooks.clock
    )
    email.catch_up()
    edges: set[str] = set()
    crashes = count()

    def new(edge: str) -> bool:
        is_new = edge not in edges
        edges.add(edge)
        return is_new

    def look() -> None:
        while True:
            try:
                hooks.look(CrashingBoundary(crashes=new))
            except Crashed:
                next(crashes)
            else:
                return

    for turn in range(rounds):
        hooks.sender.answers = [GONE if turn % 2 else BROKEN]
        hooks.ledger.append(a_key())
        hooks.bring()
        for wait in () if turn % 2 else RETRIES:
            hooks.clock.advance(wait * 1.2 + timedelta(seconds=1))
            hooks.bring()
            look()
        look()
        for each in ids:
            found = hooks.manage.get(account_id=account_id(), endpoint_id=each)
            assert found.disabled_reason == ("gone" if turn % 2 else "failing")
            change, by = EndpointChange(is_enabled=True), origin(hooks.clock.now())
            hooks.manage.change(account_id=account_id(), endpoint_id=each, change=change, by=by)
    while email.catch_up():
        pass
    with psycopg.connect(hooks.conninfo) as connection:
        ends = connection.execute(
            "SELECT stream_id, count(*) FROM ledger.events WHERE topic = 'webhook.disabled' GROUP BY stream_id"
        ).fetchall()
        mails = connection.execute(
            "SELECT payload ->> 'thing_id', count(*) FROM outbox.messages WHERE kind = 'webhook_disabled' GROUP BY 1"
        ).fetchall()
        standing = connection.execute(
            "SELECT workflow, state, count(*) FROM workflow.processes GROUP BY workflow, state"
        ).fetchall()
    assert dict(ends) == dict(mails) == dict.fromkeys(ids, rounds)
    assert standing == [("webhook_failure", "ended", endpoints * rounds)]
    crashed = next(crashes)
    assert crashed == len(edges) == 2 * endpoints * rounds
    print(f"\n{endpoints} endpoints, {endpoints * rounds} failures, {crashed} crashes, one at each edge")  # noqa: T201 - the figures
