"""Imported keys, presented, over doubles of the ports: what is asked of memory, of the database, and of bcrypt."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from threading import Event as Flag
from typing import Any

import pytest

from application.authentication import Authentication, Authenticator, Need
from application.imported_keys import BCRYPT_PLACES, BCRYPT_PLACES_OF_ONE_NETWORK, ImportedPrefixes
from application.ports import StoredKey
from application.verified_keys import Change, VerifiedKeys
from domain.access import Address
from domain.credential import Environment, mint_key
from domain.errors import UnavailableError
from domain.ids import KeyId
from domain.verdict import Verdict
from tests.kit.builders import NOON, SettableClock, entropy, key_id
from tests.kit.service import eventually
from tests.kit.verified import facts

WAIT_SECONDS = 30
OLD, NEW = b"old", b"new"


@dataclass(slots=True)
class Hashes:
    """The port `CredentialHashes`, under secrets that a test may change, the newest first."""

    secrets: list[bytes] = field(default_factory=lambda: [OLD])

    def tag(self, signed: bytes) -> bytes:
        """Eleven hex characters."""
        return hashlib.sha256(b"tag" + signed).hexdigest()[:11].encode()

    def tag_is_valid(self, signed: bytes, tag: bytes) -> bool:
        """Whether it is that."""
        return self.tag(signed) == tag

    def receipt(self, raw: bytes) -> bytes:
        """32 bytes, under the newest secret."""
        return hashlib.sha256(self.secrets[0] + raw).digest()

    def receipt_is_valid(self, raw: bytes, receipt: bytes) -> bool:
        """Whether it was made under any of them."""
        return receipt in {hashlib.sha256(secret + raw).digest() for secret in self.secrets}

    def log_hash(self, raw: bytes) -> str:
        """Its name in the log."""
        return hashlib.sha256(b"log" + raw).hexdigest()[:32]


@dataclass(slots=True)
class Verifiers:
    """The port `Verifiers`: counts; a verifier is the key with a mark before it."""

    own: int = 0
    foreign: int = 0
    passing: Flag = field(default_factory=Flag)

    def __post_init__(self) -> None:
        self.passing.set()

    def hash(self, raw: bytes) -> str:
        """Never asked."""
        raise NotImplementedError

    def verify(self, raw: bytes, verifier: str) -> bool:
        """Whether it is the key's."""
        self.own += 1
        return verifier == f"own:{raw.decode()}"

    def verify_foreign(self, raw: bytes, verifier: str) -> bool:
        """Whether it is the key's; waits as long as the test wants."""
        self.foreign += 1
        assert self.passing.wait(WAIT_SECONDS)
        return verifier == f"bcrypt:{raw.decode()}"


@dataclass(slots=True)
class Keys:
    """The port `Keys`, as far as authentication asks."""

    table: dict[KeyId, StoredKey] = field(default_factory=dict[KeyId, StoredKey])
    prefixes: dict[KeyId, str] = field(default_factory=dict[KeyId, str])
    asked: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    def stored(self, key_id: KeyId) -> StoredKey | None:
        """By id."""
        return self.table.get(key_id)

    def imported(self, digest: str, prefixes: Sequence[str]) -> Sequence[StoredKey]:
        """By digest, or of bcrypt by prefix."""
        self.asked.append(tuple(prefixes))
        return [
            self.table[each]
            for each, prefix in self.prefixes.items()
            if self.table[each].verifier == digest
            or (prefix in prefixes and self.table[each].verifier.startswith("bcrypt:"))
        ]

    def keep_receipt(self, key_id: KeyId, receipt: bytes) -> None:
        """Beside the verifier."""
        self.table[key_id] = replace(self.table[key_id], receipt=receipt)


@dataclass(slots=True)
class World:
    """A process that serves, and what it stands on."""

    keys: Keys = field(default_factory=Keys)
    hashes: Hashes = field(default_factory=Hashes)
    verifiers: Verifiers = field(default_factory=Verifiers)
    verified: VerifiedKeys = field(init=False)
    authenticator: Authenticator = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Another process: nothing in memory but the prefixes."""
        self.verified = VerifiedKeys(capacity=100, fingerprint=self.hashes.receipt, elapsed=lambda: 0.0)
        self.verified.prefixes.replace(self.keys.prefixes.values())
        self.verified.start_at(1)
        self.verified.extend(1.0)
        self.authenticator = Authenticator(
            keys=self.keys,  # pyright: ignore[reportArgumentType] - only what it asks for
            verified=self.verified,
            hashes=self.hashes,
            verifiers=self.verifiers,
            clock=SettableClock(),
            environments=frozenset(Environment),
        )

    def bring(self, number: int, raw: str, *, prefix: str, sha256: bool = False, **values: Any) -> bytes:
        """An imported key."""
        verifier = f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" if sha256 else f"bcrypt:{raw}"
        self.keys.table[key_id(number)] = StoredKey(facts(key=number, **values), verifier, None, 1)
        self.keys.prefixes[key_id(number)] = prefix
        self.verified.prefixes.add([prefix])
        return raw.encode()

    def ask(self, raw: bytes, client: Address | None = None) -> Authentication:
        """As the gate does."""
        known = self.authenticator.recall(raw, need=Need(), client=client)
        return self.authenticator.look_up(raw, need=Need(), client=client) if known is None else known

    def verdict(self, raw: bytes, client: Address | None = None) -> Verdict:
        """The verdict alone."""
        return self.ask(raw, client).verdict

    def key(self, raw: bytes) -> KeyId | None:
        """The key that was accepted."""
        answer = self.ask(raw)
        return answer.key_id if answer.verdict is Verdict.OK else None


@pytest.fixture
def world() -> World:
    """Nothing imported, and fresh."""
    return World()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Many."""
    with ThreadPoolExecutor(32) as executor:
        yield executor


def forged() -> bytes:
    """A key of our grammar with another's tag."""
    _, secret = mint_key(
        Environment.LIVE, id_entropy=entropy(1), secret_entropy=entropy(2), tag=lambda _: b"0123456789a"
    )
    return secret.reveal().encode()


def test_without_imports_nothing_foreign_reaches_the_database(world: World) -> None:
    """Garbage and forged keys are refused in memory, as ever."""
    for raw in (b"garbage", b"", b"acme_1", b"\xff" * 600, forged()):
        assert world.authenticator.recall(raw, need=Need(), client=None) is not None
    assert world.keys.asked == []


def test_only_what_begins_with_a_known_prefix_is_looked_for(world: World) -> None:
    """All else stays a matter of memory; and 513 bytes are no credential, whatever they begin with."""
    world.bring(1, "acme_0001_secret", prefix="acme_0001")
    for raw in (b"acme_0002_secret", b"acme_000", b"acme", b"\xffacme_0001", b"acme_0001".ljust(513, b"x"), forged()):
        answer = world.authenticator.recall(raw, need=Need(), client=None)
        assert answer is not None
        assert answer.verdict in {Verdict.MALFORMED, Verdict.FORGED}
    assert world.keys.asked == []
    assert world.verdict(b"acme_0001_wrong") is Verdict.MALFORMED
    assert world.keys.asked == [("acme_0001",)]


def test_a_foreign_key_of_our_grammar_is_found_and_a_forged_one_stays_forged(world: World) -> None:
    """Other products write `sk_live_`, too; the verdict of what is not theirs is the same as without imports."""
    raw = forged()
    world.bring(1, raw.decode(), prefix=raw[:17].decode(), sha256=True)
    assert world.key(raw) == key_id(1)
    assert world.verdict(raw[:-1] + b"b") is Verdict.FORGED


def test_bcrypt_is_paid_once_for_each_key(world: World) -> None:
    """At the first use; neither later uses nor other processes nor wrong secrets cost one after that."""
    raw = world.bring(1, "acme_0001_secret", prefix="acme_0001")
    assert world.key(raw) == key_id(1)
    assert world.verifiers.foreign == 1
    assert world.key(raw) == key_id(1)
    for _ in range(3):
        world.restart()
        assert world.key(raw) == key_id(1)
        assert world.verdict(b"acme_0001_wrong") is Verdict.MALFORMED
    assert (world.verifiers.foreign, world.verifiers.own) == (1, 0)


def test_a_receipt_under_a_secret_that_is_gone_costs_one_bcrypt_again(world: World) -> None:
    """The key is still accepted; and one under an older secret that is kept costs none."""
    raw = world.bring(1, "acme_0001_secret", prefix="acme_0001")
    assert world.key(raw) == key_id(1)
    world.hashes.secrets = [NEW, OLD]
    world.restart()
    assert world.key(raw) == key_id(1)
    assert world.verifiers.foreign == 1
    world.hashes.secrets = [NEW]
    for _ in range(2):
        world.restart()
        assert world.key(raw) == key_id(1)
    assert world.verifiers.foreign == 2


def test_a_sha256_costs_no_bcrypt(world: World) -> None:
    """Neither the right key nor a wrong one; and the hash itself is not the key."""
    raw = world.bring(1, "ak_secret", prefix="ak", sha256=True)
    assert world.key(raw) == key_id(1)
    assert world.verdict(b"ak_wrong") is Verdict.MALFORMED
    assert world.verdict(world.keys.table[key_id(1)].verifier.encode()) is Verdict.MALFORMED
    assert world.verifiers.foreign == 0
    assert world.keys.table[key_id(1)].receipt is not None


def test_keys_of_one_prefix_are_told_apart(world: World) -> None:
    """Each is accepted as itself, also where one prefix begins another; each used one spares the others a bcrypt."""
    brought = [world.bring(each, f"acme_{each}", prefix="acme" if each % 2 else "acme_") for each in range(1, 7)]
    for number, raw in enumerate(brought, start=1):
        assert world.key(raw) == key_id(number)
    paid = world.verifiers.foreign
    world.restart()
    for number, raw in enumerate(brought, start=1):
        assert world.key(raw) == key_id(number)
    assert world.verdict(b"acme_7") is Verdict.MALFORMED
    assert world.verifiers.foreign == paid


def test_more_than_72_bytes_are_never_given_to_bcrypt(world: World) -> None:
    """It would judge by the first 72; a SHA-256 takes all of them."""
    long = "acme_" + "x" * 100
    world.bring(1, long, prefix="acme_")
    assert world.verdict(long.encode()) is Verdict.MALFORMED
    assert world.verifiers.foreign == 0
    world.bring(2, long, prefix="acme_", sha256=True)
    assert world.key(long.encode()) == key_id(2)


def test_an_ended_imported_key_is_refused_as_that_key(world: World) -> None:
    """Its verdict, its owner and its id are known, as for any other."""
    raw = world.bring(1, "acme_0001_secret", prefix="acme_0001", revoked_at=NOON)
    answer = world.ask(raw)
    assert (answer.verdict, answer.key_id) == (Verdict.REVOKED, key_id(1))
    assert answer.account_id is not None


def test_a_revocation_takes_an_imported_key_out_of_memory(world: World) -> None:
    """It is remembered under the credential like any other, and forgotten with the change."""
    raw = world.bring(1, "acme_0001_secret", prefix="acme_0001")
    assert world.key(raw) == key_id(1)
    kept = world.keys.table[key_id(1)]
    world.keys.table[key_id(1)] = replace(kept, facts=facts(key=1, revoked_at=NOON), read_at=2)
    world.verified.apply([Change(2, key_id(1))])
    assert world.verdict(raw) is Verdict.REVOKED


def test_a_flood_that_costs_bcrypt_is_turned_away_and_our_own_keys_are_not(
    world: World, threads: ThreadPoolExecutor
) -> None:
    """One bcrypt at a time, few that wait, and to all others: not now. A key of ours that needs its bcrypt passes."""
    world.bring(1, "acme_0001_secret", prefix="acme_0001")
    _, secret = mint_key(Environment.LIVE, id_entropy=entropy(9), secret_entropy=entropy(10), tag=world.hashes.tag)
    own = secret.reveal()
    world.keys.table[key_id(9)] = StoredKey(facts(key=9), f"own:{own}", None, 1)
    world.verifiers.passing.clear()
    flood = [
        threads.submit(world.verdict, b"acme_0001_%d" % each, IPv4Address(f"203.0.113.{each}")) for each in range(30)
    ]
    eventually(lambda: sum(each.done() for each in flood) >= 30 - BCRYPT_PLACES, "the flood is turned away")
    assert world.verdict(own.encode()) is Verdict.OK
    assert (world.verifiers.own, world.verifiers.foreign) == (1, 1)
    world.verifiers.passing.set()
    outcomes = [each.exception(WAIT_SECONDS) or each.result() for each in flood]
    turned_away = sum(isinstance(each, UnavailableError) for each in outcomes)
    assert outcomes.count(Verdict.MALFORMED) == 30 - turned_away >= 1


def test_a_flood_of_one_network_keeps_no_other_out(world: World, threads: ThreadPoolExecutor) -> None:
    """It never holds all places: the first use of a key is still verified for a client from elsewhere."""
    raw = world.bring(1, "acme_0001_secret", prefix="acme_0001")
    world.verifiers.passing.clear()
    flood = [threads.submit(world.verdict, b"acme_0001_%d" % each, IPv4Address("203.0.113.7")) for each in range(20)]
    eventually(
        lambda: sum(each.done() for each in flood) == 20 - BCRYPT_PLACES_OF_ONE_NETWORK, "the flood is turned away"
    )
    good = threads.submit(world.verdict, raw, IPv4Address("198.51.100.1"))
    world.verifiers.passing.set()
    assert good.result(WAIT_SECONDS) is Verdict.OK


def test_prefixes_are_replaced_as_a_whole() -> None:
    """What is not among the new ones is not known any more; prefixes of all lengths are known at once."""
    prefixes = ImportedPrefixes()
    prefixes.add(["acme", "acme_1", "acme_2"])
    assert sorted(prefixes.of(b"acme_1x")) == ["acme", "acme_1"]
    assert prefixes.of(b"acm") == []
    prefixes.replace(["other"])
    assert prefixes.of(b"acme_1x") == []
    assert prefixes.of(b"other") == ["other"]
