"""The import of keys: what each line becomes, that nothing is imported twice, and what a dry run leaves."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from eventsourcing.persistence import IntegrityError
from eventsourcing.popo import POPOFactory
from eventsourcing.utils import Environment as LibraryEnvironment

from application.imports import BATCH, ForeignKey, Imported, KeyImport, Outcome, Refusal
from application.ledger import Ledger, NewVerifier
from application.ports import Freshness, ImportedRow
from domain.api_key import ApiKey
from domain.credential import Environment
from domain.events import Aggregate
from domain.foreign_key import CANDIDATES_MAX, Algorithm, ForeignHash
from domain.ids import AccountId, KeyId
from domain.naming import Name
from tests.kit.builders import NOON, CountingEntropy, account_id, origin

DAY = timedelta(days=1)


@dataclass(slots=True)
class Vault:
    """The port `Imports` over the verifiers that were appended; refuses what its constraints would."""

    rows: list[ImportedRow] = field(default_factory=list[ImportedRow])

    def like(
        self,
        account_id: AccountId,
        *,
        digests: Sequence[bytes],
        hashes: Sequence[str],
        prefixes: Sequence[str],
        external_ids: Sequence[str],
    ) -> Sequence[ImportedRow]:
        """Those that the port promises."""
        verifiers = {f"sha256:{digest.hex()}" for digest in digests}.union(hashes)
        return [
            row
            for row in self.rows
            if row.verifier in verifiers
            or (row.candidate is not None and row.prefix in prefixes)
            or (row.account_id == account_id and row.external_id in external_ids)
        ]

    def add(self, new: NewVerifier) -> None:
        """One more; IntegrityError as the constraints of the database."""
        assert new.imported is not None
        row = ImportedRow(
            KeyId(new.key_id),
            AccountId(new.imported.account_id),
            new.imported.external_id,
            new.imported.lookup_prefix,
            new.imported.candidate,
            new.verifier,
        )
        for other in self.rows:
            same_place = row.candidate is not None and (row.prefix, row.candidate) == (other.prefix, other.candidate)
            same_id = row.external_id is not None and row.external_id == other.external_id
            if same_place or row.verifier == other.verifier or (same_id and row.account_id == other.account_id):
                raise IntegrityError
        self.rows.append(row)


class VaultedLedger(Ledger):
    """A ledger in memory whose appends reach the vault; ``before`` runs ahead of each."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.appends: list[int] = []
        self.before: Callable[[], None] = lambda: None
        super().__init__(POPOFactory(LibraryEnvironment("ledger", {})))

    def append(self, *aggregates: Aggregate, verifiers: tuple[NewVerifier, ...] = ()) -> int | None:
        """All or nothing."""
        self.before()
        kept = list(self.vault.rows)
        try:
            for new in verifiers:
                self.vault.add(new)
        except IntegrityError:
            self.vault.rows = kept
            raise
        position = super().append(*aggregates)
        if position is not None:
            self.appends.append(position)
        return position


@dataclass(slots=True)
class Cache:
    """The port `KeyCache`: remembers what was waited for."""

    awaited: list[int] = field(default_factory=list[int])

    def await_applied(self, position: int) -> Freshness:
        """At once."""
        self.awaited.append(position)
        return Freshness(position, 0, 0)


@dataclass(slots=True)
class World:
    """The use case and what it stands on."""

    ledger: VaultedLedger
    cache: Cache = field(default_factory=Cache)

    def run(self, *keys: ForeignKey | Refusal, owner: int = 1, dry_run: bool = False) -> list[Outcome]:
        """All outcomes."""
        imports = KeyImport(
            ledger=self.ledger, imports=self.ledger.vault, cache=self.cache, entropy=CountingEntropy(self.ids)
        )
        return list(imports.run(account_id=account_id(owner), keys=keys, by=origin(), dry_run=dry_run))

    ids: Any = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def told(self, *keys: ForeignKey | Refusal, **how: Any) -> list[str]:
        """The outcomes in a word each."""
        return [_told(each) for each in self.run(*keys, **how)]


def _told(outcome: Outcome) -> str:
    if isinstance(outcome, Refusal):
        return f"{outcome.field} {outcome.message}"
    return "new" if outcome.is_new else "before"


@pytest.fixture
def world() -> Iterator[World]:
    with VaultedLedger(Vault()) as ledger:
        yield World(ledger)


def sha256(line: int, raw: str | None = None, **values: Any) -> ForeignKey:
    """A key with a SHA-256."""
    made = ForeignHash.parse(Algorithm.SHA256, hashlib.sha256((raw or f"raw {line}").encode()).hexdigest())
    return _key(line, made, values)


def bcrypt(line: int, number: int | None = None, **values: Any) -> ForeignKey:
    """A key with a bcrypt hash."""
    text = f"$2b$10${'.' * 22}{number or line:031d}"
    return _key(line, ForeignHash.parse(Algorithm.BCRYPT, text), values)


def _key(line: int, made: ForeignHash, values: dict[str, Any]) -> ForeignKey:
    defaults: dict[str, Any] = {"name": Name("Moved"), "environment": Environment.LIVE, "prefix": f"acme_{line:04d}"}
    return ForeignKey(line=line, hash=made, **(defaults | values))


def test_each_line_becomes_a_key_and_the_answer_waits_for_all_processes(world: World) -> None:
    """One append, waited for; what the line tells is what the key is."""
    key = sha256(1, external_id=Name("k-1"), created_at=NOON - DAY, expires_at=NOON + DAY)
    outcomes = world.run(key, bcrypt(2))
    assert all(isinstance(each, Imported) and each.is_new for each in outcomes)
    assert world.cache.awaited == world.ledger.appends == [2]
    first = outcomes[0]
    assert isinstance(first, Imported)
    assert first.key_id is not None
    kept = world.ledger.load(ApiKey, first.key_id)
    assert (kept.account_id, kept.prefix, kept.expires_at) == (account_id(), "acme_0001", NOON + DAY)
    assert kept.rotation_due_at == NOON + 89 * DAY
    assert [row.candidate for row in world.ledger.vault.rows] == [None, 1]


def test_the_same_source_again_imports_nothing(world: World) -> None:
    """Every line is there before, under the ids it has got, and nothing is appended or waited for."""
    source = [sha256(1), bcrypt(2, external_id=Name("k-2")), sha256(3, external_id=Name("k-3"))]
    ids = [each.key_id for each in world.run(*source) if isinstance(each, Imported)]
    again = world.run(*source)
    assert [_told(each) for each in again] == ["before"] * 3
    assert [each.key_id for each in again if isinstance(each, Imported)] == ids
    assert len(world.ledger.appends) == len(world.cache.awaited) == 1


def test_an_import_that_was_cut_off_goes_on_where_it_ended(world: World) -> None:
    """The lines that were imported are told as before, the others are imported."""
    world.run(sha256(1), bcrypt(2))
    assert world.told(sha256(1), bcrypt(2), sha256(3)) == ["before", "before", "new"]


def test_a_key_that_stands_twice_in_the_source_is_imported_once(world: World) -> None:
    """The second line is refused, in whatever batch it comes, and names the first."""
    source = [sha256(line) for line in range(1, BATCH + 1)]
    repeated = [sha256(BATCH + 1, "raw 1"), bcrypt(BATCH + 2), bcrypt(BATCH + 3, BATCH + 2, prefix="other")]
    told = world.told(*source, *repeated)
    assert told[:BATCH] == ["new"] * BATCH
    assert told[BATCH:] == ["hash is the same as in line 1", "new", f"hash is the same as in line {BATCH + 2}"]
    assert len(world.ledger.appends) == 2


def test_a_key_of_another_account_or_name_is_refused(world: World) -> None:
    """One key is not two; one external id is not two keys, within its account."""
    world.run(sha256(1, external_id=Name("k-1")))
    assert world.told(sha256(1, external_id=Name("k-1")), owner=2)[0].endswith("for another account")
    assert world.told(sha256(1))[0].endswith("with another external_id")
    assert world.told(sha256(2, external_id=Name("k-1")))[0].endswith("which has another hash")
    assert world.told(sha256(2, external_id=Name("k-1")), owner=2) == ["new"]
    assert world.told(sha256(3, external_id=Name("k-3")), sha256(4, external_id=Name("k-3"))) == [
        "new",
        "external_id is the same as in line 3",
    ]


def test_no_more_than_eight_bcrypt_hashes_have_one_prefix(world: World) -> None:
    """Each would cost a bcrypt for every credential that begins so; a SHA-256 costs none and is not counted."""
    lines = [bcrypt(line, prefix="acme") for line in range(1, CANDIDATES_MAX + 1)]
    assert world.told(*lines[:5]) == ["new"] * 5
    told = world.told(*lines, bcrypt(20, prefix="acme"), sha256(21, prefix="acme"), bcrypt(22, prefix="acme_"))
    assert told[:8] == ["before"] * 5 + ["new"] * 3
    assert told[8].startswith("prefix ")
    assert told[9:] == ["new", "new"]


def test_a_dry_run_decides_the_same_and_changes_nothing(world: World) -> None:
    """Also over several batches, and for the keys that only a place too few would refuse."""
    filler = [sha256(line) for line in range(1, BATCH)]
    source = [
        *(bcrypt(1000 + line, prefix="acme") for line in range(5)),
        *filler,
        *(bcrypt(2000 + line, prefix="acme") for line in range(5)),
        sha256(3000, "raw 1"),
    ]
    dry = world.run(*source, dry_run=True)
    assert world.ledger.vault.rows == []
    assert world.ledger.appends == world.cache.awaited == []
    assert {each.key_id for each in dry if isinstance(each, Imported)} == {None}
    assert [_told(each) for each in dry] == world.told(*source)


def test_refused_lines_keep_their_place_among_the_others(world: World) -> None:
    """What could not be read, what is implausible and what is good: one outcome a line, in order."""
    source = [
        Refusal(1, "", "is not a JSON object"),
        sha256(2),
        sha256(3, expires_at=NOON),
        sha256(4, created_at=NOON + DAY),
        sha256(5, "acme_0005"),
        sha256(6, "secret", name=Name("secret")),
        sha256(7, "secret 7", external_id=Name("secret 7")),
        sha256(8),
    ]
    outcomes = world.run(*source)
    assert [each.line if isinstance(each, Refusal) else each.key.line for each in outcomes] == list(range(1, 9))
    assert [each.field if isinstance(each, Refusal) else "ok" for each in outcomes] == [
        "", "ok", "expires_at", "created_at", "prefix", "name", "external_id", "ok",
    ]  # fmt: skip


def test_nothing_to_import_appends_nothing(world: World) -> None:
    """An empty source, and one of refused lines alone."""
    assert world.run() == []
    assert world.told(Refusal(1, "", "is not a JSON object")) == [" is not a JSON object"]
    assert world.ledger.appends == []


def test_an_import_that_meets_another_decides_again(world: World) -> None:
    """Of two that run at once, the second sees what the first has taken: its keys, its ids, its places."""
    mine = [bcrypt(1, prefix="acme"), sha256(2), sha256(3, external_id=Name("k-3"))]
    theirs = [bcrypt(11, prefix="acme"), sha256(12, "raw 2"), sha256(13, external_id=Name("k-3"))]

    def meet() -> None:
        world.ledger.before = lambda: None
        with suppress(IntegrityError):
            world.run(*theirs)

    world.ledger.before = meet
    told = world.told(*mine)
    assert told[:2] == ["new", "before"]
    assert told[2].endswith("which has another hash")
    assert sorted(row.candidate or 0 for row in world.ledger.vault.rows) == [0, 0, 1, 2]
