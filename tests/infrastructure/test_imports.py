"""Imported keys on a real PostgreSQL: found by index, imported once whoever races, known to every process in time."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import bcrypt
import pytest

from application.authentication import Authenticator, Need
from application.imports import ForeignKey, Imported, KeyImport, Outcome
from application.ledger import Ledger
from application.verified_keys import Lease, VerifiedKeys
from domain.api_key import ApiKey, RevocationReason
from domain.credential import Environment
from domain.foreign_key import CANDIDATES_MAX, Algorithm, ForeignHash, sha256_verifier
from domain.ids import KeyId, RunId
from domain.naming import Name
from domain.verdict import Verdict
from infrastructure.board import Board
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.hashing import BcryptVerifier, SecretRing
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.freshness import DatabaseClock, LedgerFollower, PostgresFreshness, elapsed
from infrastructure.postgres.imports import PostgresImports
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from infrastructure.projections import Rebuilder
from infrastructure.system import SystemEntropy
from tests.kit.builders import NOON, SettableClock, a_key, account_id, an_account, entropy, origin
from tests.kit.service import eventually

RING = SecretRing([b"s" * 32])


class World:
    """The import and what authentication reads, on one database with one account."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.board = Board(3)
        seat = self.board.take_seat()
        self.recorder = PostgresRecorder(database, [AccountsView(), KeysView()], seat)
        self.ledger = Ledger(PostgresLedgerFactory(self.recorder))
        self.keys = PostgresKeys(database)
        self.cache = PostgresFreshness(database, seat=seat)
        self.imports = KeyImport(
            ledger=self.ledger,
            imports=PostgresImports(database),
            cache=self.cache,
            entropy=SystemEntropy(),
        )
        self.ledger.append(an_account())

    def run(self, *keys: ForeignKey) -> list[Outcome]:
        """Imports them."""
        return list(self.imports.run(account_id=account_id(), keys=keys, by=origin(), dry_run=False))

    def bring(self, *keys: ForeignKey) -> list[KeyId]:
        """Imports them all; their ids."""
        outcomes = self.run(*keys)
        ids = [each.key_id for each in outcomes if isinstance(each, Imported) and each.key_id is not None]
        assert len(ids) == len(keys), outcomes
        return ids

    def found(self, raw: str, *prefixes: str) -> list[KeyId]:
        """What authentication is given."""
        return [each.facts.key_id for each in self.keys.imported(sha256_verifier(raw.encode()), prefixes)]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def sha256(line: int, raw: str, prefix: str = "acme", **values: Any) -> ForeignKey:
    """A key with a SHA-256."""
    return _key(line, prefix, Algorithm.SHA256, hashlib.sha256(raw.encode()).hexdigest(), values)


def by_bcrypt(line: int, raw: str, prefix: str = "acme", **values: Any) -> ForeignKey:
    """A key with a bcrypt hash of the lowest cost."""
    return _key(line, prefix, Algorithm.BCRYPT, bcrypt.hashpw(raw.encode(), bcrypt.gensalt(4)).decode(), values)


def _key(line: int, prefix: str, algorithm: Algorithm, text: str, values: dict[str, Any]) -> ForeignKey:
    made = ForeignHash.parse(algorithm, text)
    return ForeignKey(line, Name(f"Moved {line}"), Environment.LIVE, prefix, made, **values)


def test_a_key_is_found_by_its_sha256_or_by_the_prefix_of_its_bcrypt_hash(world: World) -> None:
    """Of a SHA-256 exactly one row, whatever the prefix; of bcrypt the few of the prefix, the longest first."""
    exact, first, second, longer = world.bring(
        sha256(1, "acme_1"), by_bcrypt(2, "acme_2"), by_bcrypt(3, "acme_3"), by_bcrypt(4, "acme_4", "acme_")
    )
    world.ledger.append(a_key(number=1))
    assert world.found("acme_1", "other") == [exact]
    assert world.found("acme_2", "acme") == [first, second]
    assert world.found("acme_1", "acme", "acme_") == [longer, first, second, exact]
    assert world.found("acme_1x", "other") == []


def test_looking_up_costs_the_same_however_many_were_imported(world: World) -> None:
    """Both ways go by an index."""
    with world.database.cursor() as cursor:
        cursor.execute("""
            INSERT INTO credentials.imports (key_id, account_id, algorithm, lookup_prefix, sha256)
            SELECT 'key_' || i, 'acc_1', 'sha256', 'acme_' || i, sha256(i::text::bytea)
            FROM generate_series(1, 20000) AS i
        """)
        cursor.execute("ANALYZE credentials.imports")
        rows = cursor.execute(
            b"EXPLAIN " + PostgresKeys.IMPORTED.encode(), {"digest": b"0" * 32, "prefixes": ["acme_1"]}
        ).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "imports_sha256" in plan
    assert "imports_candidate" in plan
    assert "Seq Scan on imports" not in plan


def test_an_import_is_whole_in_the_vault_and_in_the_view(world: World) -> None:
    """The row has the age that it was told, and a rebuild gives the same rows; the vault is not touched."""
    (key_id,) = world.bring(by_bcrypt(1, "acme_1", external_id=Name("k-1"), created_at=NOON.replace(year=2025)))
    view = world.keys.find(key_id)
    assert view is not None
    assert (view.prefix, view.created_at) == ("acme", NOON.replace(year=2025))
    before = rows(world)
    Rebuilder(world.database, world.recorder, [AccountsView(), KeysView()], []).rebuild()
    assert rows(world) == before


def rows(world: World) -> Sequence[Any]:
    """Every row of the keys and of the vault."""
    with world.database.cursor() as cursor:
        return [
            cursor.execute("SELECT * FROM views.keys ORDER BY key_id").fetchall(),
            cursor.execute("SELECT * FROM credentials.verifiers ORDER BY key_id").fetchall(),
            cursor.execute("SELECT * FROM credentials.imports ORDER BY key_id").fetchall(),
        ]


def test_imports_that_race_import_each_key_once(world: World) -> None:
    """Four at once bring the same keys, ids and prefixes: each key is new for one of them."""
    source = [
        *(by_bcrypt(line, f"acme_{line}", external_id=Name(f"k-{line}")) for line in range(1, 7)),
        *(sha256(line, f"acme_{line}") for line in range(7, 300)),
    ]
    with ThreadPoolExecutor(4) as threads:
        runs = [each.result() for each in [threads.submit(world.run, *source) for _ in range(4)]]
    outcomes = [[each for each in run if isinstance(each, Imported)] for run in runs]
    assert [len(run) for run in outcomes] == [len(source)] * 4
    assert sum(each.is_new for run in outcomes for each in run) == len(source)
    assert len({tuple(each.key_id for each in run) for run in outcomes}) == 1


def test_a_bcrypt_hash_is_one_key_under_whichever_prefix(world: World) -> None:
    """Four bring it at once, each under another."""
    key = by_bcrypt(1, "acme_1234")
    prefixes = ("acme_", "acme_1", "acme_12", "acme_123")
    with ThreadPoolExecutor(len(prefixes)) as threads:
        runs = [threads.submit(world.run, replace(key, prefix=prefix)) for prefix in prefixes]
        outcomes = [outcome for run in runs for outcome in run.result()]
    imported = [outcome for outcome in outcomes if isinstance(outcome, Imported)]
    assert len(imported) == len(prefixes)
    assert sum(outcome.is_new for outcome in imported) == 1
    assert len({outcome.key_id for outcome in imported}) == 1
    with world.database.cursor() as cursor:
        assert cursor.execute("SELECT count(*), count(bcrypt) FROM credentials.imports").fetchall() == [(1, 1)]


def test_imports_that_race_do_not_fill_a_prefix_beyond_its_bound(world: World) -> None:
    """Of 24 keys with one prefix eight are imported, whoever brings them."""
    sources = [[by_bcrypt(line, f"acme_{run}_{line}") for line in range(1, 7)] for run in range(4)]
    with ThreadPoolExecutor(4) as threads:
        runs = [each.result() for each in [threads.submit(world.run, *source) for source in sources]]
    imported = [each for run in runs for each in run if isinstance(each, Imported)]
    assert len(imported) == CANDIDATES_MAX
    assert len(world.found("acme", "acme")) == CANDIDATES_MAX


class Serving:
    """One serving process of the importer's server: its memory, the follower that keeps it true, and its authenticator.

    An import is not told at the board: it comes with more than a stream.
    """

    def __init__(self, world: World, conninfo: str, number: int) -> None:
        seat = world.board.take_seat()
        assert seat is not None
        self.verified = VerifiedKeys(capacity=100, fingerprint=RING.receipt, elapsed=elapsed, board=seat)
        self.follower = LedgerFollower(
            conninfo,
            keys=self.verified,
            clock=DatabaseClock(lambda: NOON),
            lease=Lease(1.0),
            process_id=RunId.from_entropy(entropy(number)),
            host=f"alpha:{number}",
            seat=seat,
        )
        self.authenticator = Authenticator(
            keys=world.keys,
            verified=self.verified,
            hashes=RING,
            verifiers=BcryptVerifier(10),
            clock=SettableClock(),
            environments=frozenset(Environment),
        )

    def verdict(self, raw: str) -> Verdict:
        """As the gate asks."""
        sent = raw.encode()
        known = self.authenticator.recall(sent, need=Need(), client=None)
        return (known or self.authenticator.look_up(sent, need=Need(), client=None)).verdict


@pytest.fixture
def serving(world: World, conninfo: str) -> Iterator[list[Serving]]:
    """Two, fresh; and before them one key had been imported."""
    world.bring(by_bcrypt(1, "before_1", "before"))
    processes = [Serving(world, conninfo, number) for number in (1, 2)]
    with processes[0].follower, processes[1].follower:
        for each in processes:
            eventually(lambda each=each: each.verified.is_fresh, "the process is fresh")
        yield processes


def test_every_process_knows_an_imported_key_once_the_import_is_over(world: World, serving: list[Serving]) -> None:
    """What was imported before the start and what comes later; both ways of hashing; without a moment of waiting."""
    assert [each.verdict("before_1") for each in serving] == [Verdict.OK] * 2
    for line in range(10):
        raw = f"later{line}_secret"
        assert [each.verdict(raw) for each in serving] == [Verdict.MALFORMED] * 2
        world.bring((sha256 if line % 2 else by_bcrypt)(line, raw, raw[:6]))
        assert [each.verdict(raw) for each in serving] == [Verdict.OK] * 2
        assert [each.verdict(f"{raw}x") for each in serving] == [Verdict.MALFORMED] * 2


def test_an_imported_key_that_is_revoked_is_refused_once_that_is_over(world: World, serving: list[Serving]) -> None:
    """It leaves each memory as any other key does."""
    (key_id,) = world.bring(sha256(1, "later_secret", "later"))
    assert [each.verdict("later_secret") for each in serving] == [Verdict.OK] * 2
    _, position = world.ledger.change(
        ApiKey, key_id, lambda key: key.revoke(reason=RevocationReason.OTHER, note=None, by=origin())
    )
    assert position is not None
    world.cache.await_applied(position)
    assert [each.verdict("later_secret") for each in serving] == [Verdict.REVOKED] * 2


def test_the_first_use_leaves_a_receipt_and_the_next_process_needs_no_bcrypt(world: World, conninfo: str) -> None:
    """With the verifier gone from the vault the key is still accepted: by its receipt."""
    (key_id,) = world.bring(by_bcrypt(1, "acme_secret"))
    for number in (1, 2):
        process = Serving(world, conninfo, number)
        with process.follower:
            eventually(lambda process=process: process.verified.is_fresh, "the process is fresh")
            assert process.verdict("acme_secret") is Verdict.OK
            assert process.verdict("acme_wrong") is Verdict.MALFORMED
        with world.database.cursor() as cursor:
            cursor.execute("UPDATE credentials.verifiers SET verifier = '' WHERE key_id = %s", [key_id])
