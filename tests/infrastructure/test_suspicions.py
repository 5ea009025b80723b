"""Attacked keys and keys presented after their end: on record once a day, from what the access log holds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest

from application.ledger import Ledger
from application.suspicions import Suspicions
from application.usage_ports import AccessRow
from domain.api_key import ApiKey, RevocationReason
from domain.api_key_events import Attacked, PresentedAfterEnd
from domain.ids import KeyId, RunId
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.job_runs import PostgresJobRuns
from infrastructure.postgres.keys import KeysView
from infrastructure.postgres.pool import Database
from infrastructure.postgres.refused_attempts import PostgresRefusedAttempts
from infrastructure.scheduler import Job, JobRunner
from infrastructure.system import SystemClock, SystemEntropy
from interfaces.bootstrap import jobs, open_core
from interfaces.settings import Settings
from tests.kit.access_rows import PastRow, put_rows
from tests.kit.builders import CountingEntropy, SettableClock, a_key, account_id, key_id, origin

THRESHOLD = 5
Refuse = Callable[[KeyId, str, int], None]


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with Ledger(PostgresLedgerFactory(PostgresRecorder(database, [KeysView()]))) as opened:
        yield opened


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(SystemClock().now())


@pytest.fixture
def suspicions(ledger: Ledger, database: Database, clock: SettableClock) -> Suspicions:
    return Suspicions(
        ledger=ledger,
        refused=PostgresRefusedAttempts(database),
        clock=clock,
        entropy=CountingEntropy(),
        attack_threshold=THRESHOLD,
        swept_at=clock.now,
    )


@pytest.fixture
def refuse(conninfo: str) -> Iterator[Refuse]:
    """Writes that many refused rows that name the key."""
    entropy = SystemEntropy()
    with PostgresAccessLog(
        conninfo, entropy=entropy, run_id=entropy.new(RunId), host="test", durability="commit"
    ) as log:

        def write(key: KeyId, outcome: str, times: int) -> None:
            futures = [log.write(row(key, outcome, SystemClock().now())) for _ in range(times)]
            for future in futures:
                future.result(timeout=10)

        yield write


def row(key: KeyId, outcome: str, at: datetime) -> AccessRow:
    """A refused request."""
    return AccessRow(
        occurred_at=at,
        method="GET",
        endpoint="/api/campaigns",
        status=401,
        outcome=outcome,
        accepted=False,
        key_id=key,
        account_id=None,
        key_hash="0" * 32,
        client_ip="127.0.0.1",
        request_id="req_1",
    )


def kinds(ledger: Ledger, key: KeyId) -> list[type[object]]:
    """The kinds of the key's events."""
    return [type(event) for event in ledger.events.get(key)]


def test_a_key_over_the_threshold_is_on_record_as_attacked_once_a_day(
    ledger: Ledger, suspicions: Suspicions, clock: SettableClock, refuse: Refuse
) -> None:
    """Below it nothing is said; above it one event a day, with the number; an id that is no key's is nothing."""
    ledger.append(a_key(number=1, at=clock.now()))
    refuse(key_id(1), "forged", THRESHOLD - 1)
    refuse(key_id(2), "forged", THRESHOLD + 1)
    assert suspicions.note_attacks() == 0
    refuse(key_id(1), "wrong_secret", 1)
    clock.advance(timedelta(seconds=5))
    assert suspicions.note_attacks() == 1
    assert suspicions.note_attacks() == 0
    [attacked] = [event for event in ledger.events.get(key_id(1)) if isinstance(event, Attacked)]
    assert (attacked.failed_attempts, attacked.account_id) == (THRESHOLD, account_id())


def test_a_good_key_that_lacks_a_scope_or_a_plans_feature_is_not_attacked(
    ledger: Ledger, suspicions: Suspicions, clock: SettableClock, refuse: Refuse
) -> None:
    """Neither counts, not even towards what else is refused; a client outside the key's networks does."""
    ledger.append(a_key(number=1, at=clock.now()), a_key(number=2, at=clock.now()))
    for outcome in ("insufficient_scope", "plan_lacks_feature"):
        refuse(key_id(1), outcome, THRESHOLD + 1)
    refuse(key_id(1), "forged", THRESHOLD - 1)
    refuse(key_id(2), "forbidden_network", THRESHOLD)
    clock.advance(timedelta(seconds=5))
    assert suspicions.note_attacks() == 1
    assert Attacked not in kinds(ledger, key_id(1))
    assert Attacked in kinds(ledger, key_id(2))


def test_a_revoked_key_that_is_presented_is_on_record_once_a_day(
    ledger: Ledger, suspicions: Suspicions, clock: SettableClock, refuse: Refuse
) -> None:
    """One use of a revoked key is enough to tell its owner; other refusals are not that."""
    for number in (1, 2):
        ledger.append(a_key(number=number, at=clock.now()))
    refuse(key_id(1), "revoked", 1)
    assert suspicions.note_presented_after_end() == 0, "a row cannot outrun the key's own events"
    ledger.change(
        ApiKey, key_id(1), lambda key: key.revoke(reason=RevocationReason.OTHER, note=None, by=origin(clock.now()))
    )
    refuse(key_id(2), "insufficient_scope", 2)
    clock.advance(timedelta(seconds=5))
    assert suspicions.note_presented_after_end() == 1
    assert suspicions.note_presented_after_end() == 0
    assert PresentedAfterEnd in kinds(ledger, key_id(1))
    assert PresentedAfterEnd not in kinds(ledger, key_id(2))


@pytest.mark.parametrize(
    "last_sweep",
    [(timedelta(minutes=10, seconds=1), True), (timedelta(hours=23), True), (timedelta(hours=23), False)],
    ids=["ten minutes ago", "a day ago", "forgotten"],
)
def test_a_key_presented_while_nobody_swept_is_on_record(
    ledger: Ledger, database: Database, clock: SettableClock, refuse: Refuse, last_sweep: tuple[timedelta, bool]
) -> None:
    """Whatever passed since the last sweep, and however many there are; what was on record before is not said again."""
    gap, is_known = last_sweep
    runs = PostgresJobRuns(database, host="test")
    swept = Job(timedelta(seconds=2), lambda: 0)
    if is_known:
        JobRunner(runs, count=lambda *_: None).run_by_hand("presentations", swept)
    for number in (1, 2, 3):
        ledger.append(a_key(number=number, at=clock.now() - timedelta(days=3)))
        ledger.change(ApiKey, key_id(number), revoke(clock.now() - timedelta(days=2)))
        refuse(key_id(number), "revoked", 1)
    for number, ago in ((2, timedelta(days=1, minutes=1)), (3, timedelta(hours=1))):
        by = origin(clock.now() - ago)
        ledger.change(
            ApiKey,
            key_id(number),
            lambda key, by=by: key.note_presented_after_end(attempts=1, last_at=by.at, by=by),
        )
    clock.advance(gap)
    suspicions = Suspicions(
        ledger=ledger,
        refused=PostgresRefusedAttempts(database),
        clock=clock,
        entropy=CountingEntropy(),
        attack_threshold=THRESHOLD,
        swept_at=lambda: runs.last_done("presentations"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("application.suspicions.BATCH", 1)
        assert suspicions.note_presented_after_end() == 2
    assert [kinds(ledger, key_id(number)).count(PresentedAfterEnd) for number in (1, 2, 3)] == [1, 2, 1]


def test_the_job_looks_for_its_own_last_run(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that its runs are on record with."""
    asked: list[str] = []
    monkeypatch.setattr(PostgresJobRuns, "last_done", lambda _, job: asked.append(job))
    settings = Settings(database_url=conninfo, secret_keys=("0" * 64,), database_connections=2)
    with ExitStack() as stack:
        core = open_core(settings, conninfo, stack)
        jobs(core)["presentations"].run()
    assert asked == ["presentations"]


def test_keys_that_are_on_record_hide_no_others(
    ledger: Ledger, database: Database, clock: SettableClock, refuse: Refuse
) -> None:
    """However few are asked for; a day later they are asked for again."""
    for number in (1, 2):
        ledger.append(a_key(number=number, at=clock.now() - timedelta(days=3)))
        refuse(key_id(number), "forged", THRESHOLD + 2 - number)
        refuse(key_id(number), "revoked", 1)
        ledger.change(ApiKey, key_id(number), revoke(clock.now() - timedelta(days=2)))
    clock.advance(timedelta(seconds=5))
    refused, since = PostgresRefusedAttempts(database), clock.now() - timedelta(minutes=10)

    def first() -> list[KeyId]:
        return [refused.attacked(since, THRESHOLD, 1)[0][0], refused.presented_after_end(since, 1)[0][0]]

    def note(at: datetime) -> None:
        def both(key: ApiKey) -> None:
            key.note_attack(failed_attempts=9, since=since, by=origin(at))
            key.note_presented_after_end(attempts=1, last_at=at, by=origin(at))

        ledger.change(ApiKey, key_id(1), both)

    note(since - timedelta(days=1))
    assert first() == [key_id(1), key_id(1)]
    note(clock.now())
    assert first() == [key_id(2), key_id(2)]


def revoke(at: datetime) -> Callable[[ApiKey], None]:
    """The command to revoke the key at that time."""
    return lambda key: key.revoke(reason=RevocationReason.OTHER, note=None, by=origin(at))


def test_a_key_that_cannot_be_put_on_record_holds_up_no_other(
    ledger: Ledger, suspicions: Suspicions, clock: SettableClock, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose history a newer release has written; whose it was is said once all had their turn."""
    for number in (1, 2):
        ledger.append(a_key(number=number, at=clock.now()))
        ledger.change(ApiKey, key_id(number), revoke(clock.now()))
        refuse(key_id(number), "revoked", THRESHOLD + 2 - number)
    clock.advance(timedelta(seconds=5))
    change = ledger.change

    def change_unless_broken(kind: type[ApiKey], key: KeyId, command: Callable[[ApiKey], None]) -> object:
        if key == key_id(1):
            raise ValueError("a word of the future")
        return change(kind, key, command)

    monkeypatch.setattr(ledger, "change", change_unless_broken)
    for sweep in (suspicions.note_attacks, suspicions.note_presented_after_end):
        with pytest.raises(ValueError, match="future") as raised:
            sweep()
        assert raised.value.__notes__ == [f"of {key_id(1)}"]
    assert {Attacked, PresentedAfterEnd} <= set(kinds(ledger, key_id(2)))


def test_who_uses_a_key_much_attacks_nobody(
    ledger: Ledger, suspicions: Suspicions, clock: SettableClock, conninfo: str
) -> None:
    """Accepted requests count for nothing, however many."""
    ledger.append(a_key(number=1, at=clock.now()))
    put_rows(conninfo, [PastRow(at=clock.now(), key_id=key_id(1), account_id=account_id())] * (THRESHOLD + 1))
    clock.advance(timedelta(seconds=5))
    assert suspicions.note_attacks() == 0


def test_what_is_long_past_is_not_put_on_record(
    ledger: Ledger, suspicions: Suspicions, clock: SettableClock, refuse: Refuse
) -> None:
    """Refused attempts from long before the last sweep, of a key that is attacked and of one that has ended."""
    for number in (1, 2):
        ledger.append(a_key(number=number, at=clock.now()))
    ledger.change(
        ApiKey, key_id(2), lambda key: key.revoke(reason=RevocationReason.OTHER, note=None, by=origin(clock.now()))
    )
    refuse(key_id(1), "forged", THRESHOLD + 1)
    refuse(key_id(2), "revoked", 1)
    clock.advance(timedelta(days=1))
    assert suspicions.note_attacks() == 0
    assert suspicions.note_presented_after_end() == 0
