"""Authentication over doubles of its ports: from memory when it may be, one read at a time, never an older truth."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event as Flag
from threading import Lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from application.authentication import BCRYPT_AT_ONCE, Authentication, Authenticator, Need
from application.imported_keys import BCRYPT_WAIT_SECONDS
from application.ports import StoredKey
from application.verified_keys import Change, VerifiedKeys
from domain.access import Plan, Scope, Scopes
from domain.credential import Environment, mint_key
from domain.errors import UnavailableError
from domain.ids import KeyId
from domain.verdict import Verdict
from tests.kit.builders import NOON, SettableClock, account_id, entropy, key_id
from tests.kit.service import eventually
from tests.kit.verified import facts

WAIT_SECONDS = 30
Threads = Callable[[Callable[[], Authentication]], "Future[Authentication]"]


class Hashes:
    """The port `CredentialHashes`: short hashes under one made-up secret."""

    def tag(self, signed: bytes) -> bytes:
        """Eleven hex characters."""
        return hashlib.sha256(b"tag" + signed).hexdigest()[:11].encode()

    def tag_is_valid(self, signed: bytes, tag: bytes) -> bool:
        """Whether it is that."""
        return self.tag(signed) == tag

    def receipt(self, raw: bytes) -> bytes:
        """32 bytes."""
        return hashlib.sha256(b"receipt" + raw).digest()

    def receipt_is_valid(self, raw: bytes, receipt: bytes) -> bool:
        """Whether it is that."""
        return self.receipt(raw) == receipt

    def log_hash(self, raw: bytes) -> str:
        """Its name in the log."""
        return hashlib.sha256(b"log" + raw).hexdigest()[:32]


@dataclass(slots=True)
class Verifiers:
    """The port `Verifiers`: the verifier is the key itself; ``passing`` lets each verification through."""

    calls: int = 0
    at_once: int = 0
    most_at_once: int = 0
    passing: Flag = field(default_factory=Flag)
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.passing.set()

    def hash(self, raw: bytes) -> str:
        """The key itself."""
        return raw.decode()

    def verify(self, raw: bytes, verifier: str) -> bool:
        """Whether it is that."""
        with self.lock:
            self.calls += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.passing.wait(WAIT_SECONDS)
        with self.lock:
            self.at_once -= 1
        return raw.decode() == verifier


@dataclass(slots=True)
class Keys:
    """The port `Keys`, as far as authentication asks: a table, and reads that can be held after their snapshot."""

    table: dict[KeyId, StoredKey] = field(default_factory=dict[KeyId, StoredKey])
    head: int = 1
    reads: int = 0
    error: Exception | None = None
    passing: Flag = field(default_factory=Flag)

    def __post_init__(self) -> None:
        self.passing.set()

    def stored(self, key_id: KeyId) -> StoredKey | None:
        """The row as it was when asked."""
        found, error = self.table.get(key_id), self.error
        self.reads += 1
        assert self.passing.wait(WAIT_SECONDS)
        if error is not None:
            raise error
        return found

    def keep_receipt(self, key_id: KeyId, receipt: bytes) -> None:
        """Beside the verifier."""
        old = self.table[key_id]
        self.table[key_id] = StoredKey(old.facts, old.verifier, receipt, old.read_at)


@dataclass(slots=True)
class World:
    """An authenticator and all it stands on; fresh unless told otherwise."""

    keys: Keys = field(default_factory=Keys)
    verifiers: Verifiers = field(default_factory=Verifiers)
    hashes: Hashes = field(default_factory=Hashes)
    clock: SettableClock = field(default_factory=SettableClock)
    verified: VerifiedKeys = field(init=False)
    authenticator: Authenticator = field(init=False)

    def __post_init__(self) -> None:
        self.verified = VerifiedKeys(capacity=100, fingerprint=self.hashes.receipt, elapsed=lambda: 0.0)
        self.forget()
        self.authenticator = Authenticator(
            keys=self.keys,  # pyright: ignore[reportArgumentType] - only what it asks for
            verified=self.verified,
            hashes=self.hashes,
            verifiers=self.verifiers,
            clock=self.clock,
            environments=frozenset({Environment.LIVE, Environment.STAGING}),
        )

    def forget(self) -> None:
        """Begins to follow the ledger anew, with a lease."""
        self.verified.start_at(1)
        self.verified.extend(1.0)

    def mint(self, number: int = 1, environment: Environment = Environment.LIVE) -> bytes:
        """A well-formed key of ours, stored or not."""
        _, secret = mint_key(
            environment, id_entropy=entropy(number), secret_entropy=entropy(number + 500), tag=self.hashes.tag
        )
        return secret.reveal().encode()

    def store(self, number: int = 1, *, receipt: bool = True, **values: object) -> bytes:
        """A key in the table, as of the head; with its receipt or without."""
        raw = self.mint(number, facts(**values).environment)
        kept = self.hashes.receipt(raw) if receipt else None
        self.keys.table[key_id(number)] = StoredKey(facts(key=number, **values), raw.decode(), kept, self.keys.head)
        return raw

    def change(self, number: int = 1, **values: object) -> None:
        """The key changes in the database, and the change is applied in memory."""
        self.keys.head += 1
        self.store(number, **values)
        self.verified.apply([Change(self.keys.head, key_id(number))])

    def authenticate(self, raw: bytes | None, *, need: Need = Need()) -> Authentication:  # noqa: B008 - frozen
        """As the gate does."""
        known = self.authenticator.recall(raw, need=need, client=None)
        if known is not None or raw is None:
            assert known is not None
            return known
        return self.authenticator.look_up(raw, need=need, client=None)

    def verdict(self, raw: bytes | None) -> Verdict:
        """The verdict alone."""
        return self.authenticate(raw).verdict

    def waiting(self) -> int:
        """How many look-ups wait for the result of another one."""
        return sum(len(reading._condition._waiters) for reading in self.authenticator._readings.values())  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def reads_held(self) -> Iterator[None]:
        """Reads take their snapshot and do not come back before the end of the block."""
        self.keys.passing.clear()
        try:
            yield
        finally:
            self.keys.passing.set()


@pytest.fixture
def world() -> World:
    """Nothing stored, and fresh."""
    return World()


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Runs something in a thread of its own."""
    with ThreadPoolExecutor(32) as executor:
        yield executor.submit


def test_a_known_key_is_accepted_from_memory(world: World) -> None:
    """One read for the first use, none for the others."""
    raw = world.store()
    assert [world.verdict(raw) for _ in range(3)] == [Verdict.OK] * 3
    assert world.keys.reads == 1


def test_the_answer_tells_whose_key_it_is(world: World) -> None:
    """The same from the database and from memory."""
    raw = world.store()
    first, second = world.authenticate(raw), world.authenticate(raw)
    assert first == second
    assert (first.key_id, first.account_id) == (key_id(1), account_id(1))
    assert first.key_hash == world.hashes.log_hash(raw)


def test_without_a_lease_nothing_is_believed(world: World) -> None:
    """A remembered key and a forged one alike cannot be checked."""
    raw = world.store()
    world.authenticate(raw)
    world.verified.distrust()
    for sent in (raw, b"anything"):
        with pytest.raises(UnavailableError):
            world.authenticate(sent)


def test_without_a_credential_there_is_nothing_to_believe(world: World) -> None:
    """It is missing, lease or no lease."""
    world.verified.distrust()
    assert world.verdict(None) is Verdict.MISSING


@given(raw=st.binary(max_size=80))
def test_what_is_no_key_of_ours_costs_no_read(raw: bytes) -> None:
    """Grammar and tag decide alone."""
    world = World()
    assert world.verdict(raw) in {Verdict.MALFORMED, Verdict.FORGED}
    assert world.keys.reads == world.verifiers.calls == 0


@given(place=st.integers(0, 63), byte=st.integers(0, 255))
def test_a_key_with_one_byte_changed_is_refused_without_a_read(place: int, byte: int) -> None:
    """Each byte is under the tag, or is the tag."""
    world = World()
    raw = world.store()
    changed = raw[: place % len(raw)] + bytes([byte]) + raw[place % len(raw) + 1 :]
    if changed != raw:
        assert world.verdict(changed) in {Verdict.MALFORMED, Verdict.FORGED}
        assert world.keys.reads == 0


def test_a_refusal_is_never_remembered(world: World) -> None:
    """A key that was unknown is accepted as soon as it is there."""
    raw = world.mint()
    assert world.verdict(raw) is Verdict.UNKNOWN
    world.store()
    assert world.verdict(raw) is Verdict.OK


def test_another_secret_for_a_known_id_is_refused(world: World) -> None:
    """Ours by its tag, and not the stored one."""
    world.store()
    other = mint_key(
        Environment.LIVE, id_entropy=entropy(1), secret_entropy=entropy(999), tag=world.hashes.tag
    )[1].reveal().encode()  # fmt: skip
    assert world.verdict(other) is Verdict.WRONG_SECRET
    assert world.verdict(other) is Verdict.WRONG_SECRET
    assert len(world.verified) == 0


def test_a_key_under_another_environment_s_word_is_refused(world: World) -> None:
    """The word is a part of the credential."""
    world.store()
    assert world.verdict(world.mint(environment=Environment.STAGING)) is Verdict.WRONG_SECRET


def test_a_receipt_spares_the_slow_hash(world: World) -> None:
    """A key in use costs none, whatever is forgotten."""
    raw = world.store()
    world.forget()
    assert world.verdict(raw) is Verdict.OK
    assert world.verifiers.calls == 0


def test_without_a_receipt_one_slow_hash_makes_one(world: World) -> None:
    """The next use has a receipt again."""
    raw = world.store(receipt=False)
    for _ in range(3):
        world.forget()
        assert world.verdict(raw) is Verdict.OK
    assert world.verifiers.calls == 1


def test_slow_hashes_are_bounded(world: World, threads: Threads) -> None:
    """However many keys without receipts come at once."""
    raws = [world.store(number, receipt=False) for number in range(1, 9)]
    world.verifiers.passing.clear()
    uses = [threads(lambda raw=raw: world.authenticate(raw)) for raw in raws]
    eventually(lambda: world.keys.reads == len(raws), "all have read")
    eventually(lambda: world.verifiers.at_once == BCRYPT_AT_ONCE, "the first ones hash")
    world.verifiers.passing.set()
    assert {use.result().verdict for use in uses} == {Verdict.OK}
    assert world.verifiers.most_at_once == BCRYPT_AT_ONCE


def test_who_waits_too_long_for_a_slow_hash_is_turned_away(world: World, threads: Threads) -> None:
    """Not for ever behind those before it, whose thread others need; it is accepted as soon as there is room."""
    *first, late = [world.store(number, receipt=False) for number in range(1, BCRYPT_AT_ONCE + 2)]
    world.verifiers.passing.clear()
    uses = [threads(lambda raw=raw: world.authenticate(raw)) for raw in first]
    eventually(lambda: world.verifiers.at_once == BCRYPT_AT_ONCE, "the first ones hash")
    turned_away = threads(lambda: world.authenticate(late))
    try:
        assert isinstance(turned_away.exception(BCRYPT_WAIT_SECONDS + 10), UnavailableError)
    finally:
        world.verifiers.passing.set()
    assert {use.result().verdict for use in uses} == {Verdict.OK}
    assert world.verdict(late) is Verdict.OK


def test_look_ups_of_one_credential_share_one_read(world: World, threads: Threads) -> None:
    """Twenty at once cost one read and one slow hash."""
    raw = world.store(receipt=False)
    with world.reads_held():
        uses = [threads(lambda: world.authenticate(raw)) for _ in range(20)]
        eventually(lambda: world.waiting() == 19, "all the others wait")
    assert {use.result().verdict for use in uses} == {Verdict.OK}
    assert (world.keys.reads, world.verifiers.calls) == (1, 1)


def test_a_read_from_before_a_change_is_not_handed_to_who_came_after_it(world: World, threads: Threads) -> None:
    """Who joins a read that is under way knows what had been applied when it came, and reads again."""
    raw = world.store()
    with world.reads_held():
        before = threads(lambda: world.authenticate(raw))
        eventually(lambda: world.keys.reads == 1, "the first has its snapshot")
        world.change(revoked_at=NOON)
        after = threads(lambda: world.authenticate(raw))
        eventually(lambda: world.waiting() == 1, "the second waits for the first")
    assert before.result().verdict is Verdict.OK  # it came before the change
    assert after.result().verdict is Verdict.REVOKED
    assert world.verdict(raw) is Verdict.REVOKED, "the slow read was remembered"


def test_a_read_from_before_a_key_was_there_is_not_handed_to_who_came_after(world: World, threads: Threads) -> None:
    """A key can be used from the moment of its creation, also while somebody finds that it does not exist."""
    raw = world.mint()
    with world.reads_held():
        before = threads(lambda: world.authenticate(raw))
        eventually(lambda: world.keys.reads == 1, "the first has its snapshot")
        world.store()
        after = threads(lambda: world.authenticate(raw))
        eventually(lambda: world.waiting() == 1, "the second waits for the first")
    assert before.result().verdict is Verdict.UNKNOWN
    assert after.result().verdict is Verdict.OK


def test_a_failed_read_fails_all_who_share_it_and_nobody_else(world: World, threads: Threads) -> None:
    """What cannot be checked is refused; the next one reads again."""
    raw = world.store()
    world.keys.error = UnavailableError("The database cannot be reached")
    with world.reads_held():
        uses = [threads(lambda: world.authenticate(raw)) for _ in range(5)]
        eventually(lambda: world.waiting() == 4, "all the others wait")
        world.keys.error = None
    for use in uses:
        with pytest.raises(UnavailableError):
            use.result()
    assert world.verdict(raw) is Verdict.OK


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        ({"revoked_at": NOON}, Verdict.REVOKED),
        ({"disabled": True}, Verdict.DISABLED),
        ({"account_suspended": True}, Verdict.SUSPENDED),
        ({"retires_at": NOON}, Verdict.REVOKED),
        ({"expires_at": NOON}, Verdict.EXPIRED),
    ],
)
def test_a_change_holds_from_its_application(world: World, ended: dict[str, object], verdict: Verdict) -> None:
    """A remembered key that has ended is refused at its next use, and each after."""
    raw = world.store()
    assert world.verdict(raw) is Verdict.OK
    world.change(**ended)
    assert [world.verdict(raw) for _ in range(3)] == [verdict] * 3


@pytest.mark.parametrize("field", ["expires_at", "retires_at"])
def test_what_the_clock_alone_ends_ends_in_memory_too(world: World, field: str) -> None:
    """At its instant, without any event."""
    end: datetime = NOON + timedelta(hours=1)
    raw = world.store(**{field: end})
    assert world.verdict(raw) is Verdict.OK
    world.clock.at = end - timedelta(microseconds=1)
    assert world.verdict(raw) is Verdict.OK
    world.clock.at = end
    assert world.verdict(raw) in {Verdict.EXPIRED, Verdict.REVOKED}
    assert world.keys.reads == 1


def test_each_use_is_judged_by_its_own_need(world: World) -> None:
    """What was remembered for one route lets nobody into another."""
    raw = world.store(scopes=Scopes.parse(["campaigns:read"]), plan=Plan.SCALE)
    read, write = Need(scope=Scope.parse("campaigns:read")), Need(scope=Scope.parse("keys:write"))
    assert world.authenticate(raw, need=read).verdict is Verdict.OK
    assert world.authenticate(raw, need=write).verdict is Verdict.INSUFFICIENT_SCOPE
    assert world.authenticate(raw, need=read).verdict is Verdict.OK


def test_a_server_accepts_its_environments_alone(world: World) -> None:
    """From the database and from memory."""
    raw = world.store(environment=Environment.DEV)
    assert [world.verdict(raw) for _ in range(2)] == [Verdict.WRONG_ENVIRONMENT] * 2
