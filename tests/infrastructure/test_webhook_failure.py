"""Failing webhooks as processes: each failure disables its endpoint once, whatever crashes, and shows meanwhile."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from application.ledger import Ledger
from application.outbox import Failed, Message, MessageId
from application.webhook_delivery import HOLD, Answered
from application.webhook_failure import WebhookFailureWorkflow
from application.webhooks import EndpointChange
from application.workflow import WorkflowManagement
from application.workflow_ports import ProcessView
from domain import workflow
from domain.events import Aggregate, Origin
from domain.ids import WebhookEndpointId, WebhookFailureId
from domain.workflow import Process, ProcessState
from infrastructure.postgres.migrate import migrate
from infrastructure.postgres.pool import Database
from infrastructure.postgres.workflow import PostgresProcesses
from tests.kit.books import rebuilt
from tests.kit.builders import a_key, account_id, origin
from tests.kit.hooks import Hooks
from tests.kit.workflow import Crashed, CrashingBoundary, Scheduler

GONE = Answered(410, None)
BROKEN = Answered(500, None)


@pytest.fixture
def hooks(database: Database, conninfo: str) -> Iterator[Hooks]:
    made = Hooks(database, conninfo)
    with made.ledger:
        yield made


@pytest.fixture
def endpoint_id(hooks: Hooks) -> WebhookEndpointId:
    """An endpoint that its receiver says is gone, with two messages for it: the first was given up."""
    made = hooks.endpoint().endpoint.endpoint_id
    hooks.ledger.append(a_key(), a_key())
    hooks.sender.answers = [GONE]
    hooks.bring()
    return made


def story(hooks: Hooks, *streams: str) -> list[str]:
    """The topics of these streams in ledger order, without when processes are looked at."""
    with psycopg.connect(hooks.conninfo) as connection:
        rows = connection.execute(
            "SELECT topic FROM ledger.events WHERE stream_id = ANY(%s) AND topic <> 'workflow.scheduled'"
            " ORDER BY position",
            (list(streams),),
        )
        return [topic for (topic,) in rows]


def failure(endpoint_id: WebhookEndpointId, number: int = 1) -> WebhookFailureId:
    """The process of an endpoint's failure."""
    return WebhookFailureId.of(endpoint_id, number)


def process(hooks: Hooks, endpoint_id: WebhookEndpointId, number: int = 1) -> ProcessView:
    """That process as the operator sees it."""
    found = PostgresProcesses(hooks.database).find(failure(endpoint_id, number))
    assert found is not None
    return found


def outcome(hooks: Hooks, endpoint_id: WebhookEndpointId, number: int = 1) -> str:
    """How the failure ended."""
    with psycopg.connect(hooks.conninfo) as connection:
        (row,) = connection.execute(
            "SELECT convert_from(state, 'UTF8') FROM ledger.events"
            " WHERE stream_id = %s AND topic = 'webhook_failure.closed'",
            (failure(endpoint_id, number),),
        )
    return json.loads(row[0])["outcome"]


def enable(hooks: Hooks, endpoint_id: WebhookEndpointId, *, enabled: bool = True) -> None:
    """What its owner does."""
    change, by = EndpointChange(is_enabled=enabled), origin(hooks.clock.now())
    hooks.manage.change(account_id=account_id(), endpoint_id=endpoint_id, change=change, by=by)


class FailingWorkflow(WebhookFailureWorkflow):
    """Reactions fail while they are told to."""

    failing = True

    def react(self, process: Process, *, by: Origin) -> Sequence[Aggregate]:
        """Fails, or reacts."""
        if self.failing:
            raise ZeroDivisionError("as told")
        return super().react(process, by=by)


def failing(hooks: Hooks) -> tuple[Scheduler, FailingWorkflow]:
    """A scheduler whose failures of webhooks fail themselves."""
    made: list[FailingWorkflow] = []

    def workflows(ledger: Ledger) -> Sequence[FailingWorkflow]:
        made.append(FailingWorkflow(ledger=ledger))
        return made

    return Scheduler(hooks.database, clock=hooks.clock, workflows=workflows), made[0]


def test_a_failure_disables_its_endpoint_and_closes(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """Given up, begun, closed and disabled, in this order, the last three in one append; again finds nothing to do."""
    hooks.look()
    hooks.look()
    process_id = failure(endpoint_id)
    assert story(hooks, endpoint_id, process_id) == [
        "webhook.created", "webhook.delivery_given_up", "webhook_failure.began", "webhook_failure.closed",
        "webhook.disabled",
    ]  # fmt: skip
    ended = process(hooks, endpoint_id)
    assert (ended.workflow, ended.subject, ended.account_id) == ("webhook_failure", endpoint_id, account_id())
    assert (ended.state, ended.step, ended.timers) == (ProcessState.ENDED, "closed", ())
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_reason == "gone"


def test_nothing_is_sent_between_giving_up_and_the_end(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """What waits is held, without an attempt on record, and is cancelled once the endpoint is disabled."""
    for _ in range(3):
        hooks.clock.advance(HOLD)
        hooks.bring()
    assert len(hooks.sender.sent) == 1
    held, _ = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=3)
    assert (held.state.value, held.attempts, held.next_at) == ("pending", (), hooks.clock.now() + HOLD)
    hooks.look()
    hooks.clock.advance(HOLD)
    hooks.bring()
    cancelled, _ = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=3)
    assert (cancelled.state.value, len(hooks.sender.sent)) == ("cancelled", 1)


def test_an_endpoint_that_is_enabled_again_may_fail_again(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """The next failure is a process of its own, with the next number; the one before stays as it ended."""
    for number in (1, 2, 3):
        hooks.look()
        enable(hooks, endpoint_id)
        hooks.ledger.append(a_key())
        hooks.bring()
        assert len(hooks.sender.sent) == number + 1
    hooks.look()
    topics = Counter(story(hooks, endpoint_id, *(failure(endpoint_id, number) for number in (1, 2, 3, 4, 5))))
    assert topics == {
        "webhook.created": 1, "webhook.delivery_given_up": 4, "webhook_failure.began": 4, "webhook_failure.closed": 4,
        "webhook.disabled": 4, "webhook.enabled": 3,
    }  # fmt: skip


@pytest.mark.parametrize("edge", ["before", "after"])
def test_a_failure_takes_effect_once_wherever_it_crashes(
    hooks: Hooks, endpoint_id: WebhookEndpointId, edge: str
) -> None:
    """Crashed at the commit, and gone on with by another engine: the same story as without."""
    with pytest.raises(Crashed):
        hooks.look(CrashingBoundary(crashes=lambda at: at.startswith(edge)))
    assert ("webhook.disabled" in story(hooks, endpoint_id)) == (edge == "after")
    hooks.look()
    assert story(hooks, endpoint_id, failure(endpoint_id))[-3:] == [
        "webhook_failure.began", "webhook_failure.closed", "webhook.disabled",
    ]  # fmt: skip


def test_a_delivery_that_crashed_behind_giving_up_is_not_given_up_again(
    hooks: Hooks, endpoint_id: WebhookEndpointId
) -> None:
    """Its message is due again when its lease is over, and is then held like any other."""
    with psycopg.connect(hooks.conninfo) as connection:
        connection.execute("DELETE FROM outbox.attempts")
        connection.execute("UPDATE outbox.messages SET state = 'pending', ended_at = NULL, taken_until = NULL")
    hooks.clock.advance(HOLD)
    hooks.bring()
    hooks.look()
    hooks.clock.advance(HOLD)
    hooks.bring()
    assert Counter(story(hooks, endpoint_id, failure(endpoint_id)))["webhook.delivery_given_up"] == 1
    found = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=3)
    assert [each.state.value for each in found] == ["cancelled", "cancelled"]
    assert len(hooks.sender.sent) == 1


def test_attempts_that_were_under_way_add_no_failure(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """Given up while the first failure is open, and after the endpoint was disabled by it: there is one process."""
    with hooks.database.cursor() as cursor:
        (row,) = cursor.execute("SELECT id, payload FROM outbox.messages WHERE state = 'pending'").fetchall()
    other = Message(
        id=MessageId(row[0]),
        account_id=account_id(),
        target=endpoint_id,
        cause_position=4,
        kind="key.created",
        payload=row[1],
        created_at=hooks.clock.now(),
        attempt=1,
    )
    for _ in range(2):
        hooks.carrier.give_up(other, Failed("it says that it is gone", status=410, permanent=True))
        hooks.look()
    topics = Counter(story(hooks, endpoint_id, failure(endpoint_id), failure(endpoint_id, 2)))
    assert (topics["webhook.delivery_given_up"], topics["webhook_failure.began"]) == (1, 1)


def test_a_failure_that_fails_is_stuck_and_can_be_resumed(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """Each try is on record; meanwhile nothing is sent; resumed, it disables the endpoint."""
    scheduler, told = failing(hooks)
    scheduler.sweep()
    for wait in workflow.RETRIES:
        found = process(hooks, endpoint_id)
        assert (found.state, found.error) == (ProcessState.RUNNING, "ZeroDivisionError: as told")
        hooks.clock.advance(wait)
        scheduler.sweep()
    assert process(hooks, endpoint_id).state is ProcessState.STUCK
    hooks.bring()
    assert len(hooks.sender.sent) == 1
    told.failing = False
    WorkflowManagement(ledger=hooks.ledger).resume(failure(endpoint_id), by=origin(hooks.clock.now()))
    scheduler.sweep()
    assert (process(hooks, endpoint_id).state, outcome(hooks, endpoint_id)) == (ProcessState.ENDED, "disabled")
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_reason == "gone"


def test_a_failure_that_was_cancelled_leaves_its_endpoint_as_it_is(
    hooks: Hooks, endpoint_id: WebhookEndpointId
) -> None:
    """It is sent what waits, and its next failure is a process of its own."""
    scheduler, _ = failing(hooks)
    scheduler.sweep()
    WorkflowManagement(ledger=hooks.ledger).cancel(failure(endpoint_id), by=origin(hooks.clock.now()))
    hooks.look()
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_at is None
    hooks.clock.advance(HOLD)
    hooks.bring()
    assert len(hooks.sender.sent) == 2
    hooks.look()
    assert outcome(hooks, endpoint_id, 2) == "disabled"


@pytest.mark.parametrize(
    ("deed", "expected"), [("disable", "was_disabled"), ("both", "was_enabled"), ("delete", "deleted")]
)
def test_what_somebody_did_before_stays_as_it_is(
    hooks: Hooks, endpoint_id: WebhookEndpointId, deed: str, expected: str
) -> None:
    """Disabled, disabled and enabled again, or deleted by hand: the failure closes without a word to the endpoint."""
    match deed:
        case "delete":
            hooks.manage.delete(account_id=account_id(), endpoint_id=endpoint_id, by=origin(hooks.clock.now()))
        case _:
            enable(hooks, endpoint_id, enabled=False)
    if deed == "both":
        enable(hooks, endpoint_id)
    before = story(hooks, endpoint_id)
    hooks.look()
    assert (outcome(hooks, endpoint_id), story(hooks, endpoint_id)) == (expected, before)


def test_the_views_are_the_same_when_they_are_made_anew(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """Held before the process has run, and as it ended after it; a rebuild reacts to nothing."""
    for _ in range(2):
        before, after = rebuilt(hooks.conninfo)
        assert before["views.webhooks"]
        assert before == after
        hooks.look()
    assert Counter(story(hooks, endpoint_id))["webhook.disabled"] == 1


def test_an_upgrade_begins_at_the_head(hooks: Hooks, endpoint_id: WebhookEndpointId) -> None:
    """The migration itself puts the workflow behind what a database has already seen."""
    with psycopg.connect(hooks.conninfo, autocommit=True) as connection:
        connection.execute("ALTER TABLE views.webhooks DROP COLUMN failures, DROP COLUMN failure_id")
        connection.execute("DROP INDEX outbox.messages_of_mail")
        connection.execute("DELETE FROM workflow.progress")
        connection.execute("DELETE FROM public.keyledger_migrations WHERE name = '0019_failures.sql'")
    assert migrate(hooks.conninfo) == ["0019_failures.sql"]
    with psycopg.connect(hooks.conninfo) as connection:
        (head,) = connection.execute("SELECT max(position) FROM ledger.events").fetchone() or ()
        rows = connection.execute("SELECT workflow, position FROM workflow.progress").fetchall()
    assert rows == [("webhook_failure", head)]
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).failures == 0
