"""Import: keys that another system issued and hashed go on working, without being issued again.

A source is taken in batches, each whole or not at all, and what cannot be imported is refused line by line. Running it
again imports what is missing, and nothing twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from application.ledger import Ledger, NewImport, NewVerifier, retried
from application.ports import Entropy, ImportedRow, Imports, KeyCache
from domain.access import Networks, Scopes
from domain.api_key import ROTATION_DUE_AFTER, ApiKey
from domain.credential import Environment
from domain.events import Origin
from domain.foreign_key import CANDIDATES_MAX, Algorithm, ForeignHash
from domain.ids import AccountId, KeyId
from domain.naming import Name

BATCH = 200


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One key of another system, as its line in the source tells it; ``external_id`` is its name there.

    ``created_at`` None: not known, its age counts from the import. The rest is as for a new key. Times are UTC.
    """

    line: int
    name: Name
    environment: Environment
    prefix: str
    hash: ForeignHash
    scopes: Scopes | None = None
    networks: Networks | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    external_id: Name | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line is not imported: the field ("" for the whole line), and words that hold nothing of a hash."""

    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A line whose key is here. ``key_id`` None: it would be, but for the dry run. ``is_new`` False: it was before."""

    key: ForeignKey
    key_id: KeyId | None
    is_new: bool


Outcome = Imported | Refusal


@dataclass(frozen=True, slots=True)
class _Source:
    """What was seen of the source so far."""

    rotation_due_after: timedelta
    lines: dict[str, int] = field(default_factory=dict[str, int])
    """By verifier, the first line that has it."""
    external_ids: dict[str, int] = field(default_factory=dict[str, int])
    places: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """By prefix, the bcrypt hashes that a dry run would have added."""


class KeyImport:
    """Takes over keys of other systems."""

    def __init__(self, *, ledger: Ledger, imports: Imports, cache: KeyCache, entropy: Entropy) -> None:
        self._ledger = ledger
        self._imports = imports
        self._cache = cache
        self._entropy = entropy

    def run(
        self,
        *,
        account_id: AccountId,
        keys: Iterable[ForeignKey | Refusal],
        by: Origin,
        dry_run: bool,
        rotation_due_after: timedelta = ROTATION_DUE_AFTER,
    ) -> Iterator[Outcome]:
        """Move without reissuing: each line's outcome, in order; a key is accepted everywhere once it is given out.

        A dry run decides the same and changes nothing.
        """
        source = _Source(rotation_due_after)
        lines = iter(keys)
        while batch := list(islice(lines, BATCH)):
            foreign = [_plausible(each, by.at) if isinstance(each, ForeignKey) else each for each in batch]
            new = [each for each in foreign if isinstance(each, ForeignKey)]
            outcomes = iter(self._take(account_id, new, source, by=by, dry_run=dry_run))
            for each in foreign:
                yield each if isinstance(each, Refusal) else next(outcomes)

    def _take(
        self, account_id: AccountId, keys: Sequence[ForeignKey], source: _Source, *, by: Origin, dry_run: bool
    ) -> Sequence[Outcome]:
        def attempt() -> tuple[Sequence[Outcome], int | None]:
            outcomes, new, verifiers = self._decide(account_id, keys, source, by)
            if not dry_run:
                return outcomes, self._ledger.append(*new, verifiers=tuple(verifiers))
            for verifier in verifiers:
                if verifier.imported is not None and verifier.imported.candidate is not None:
                    source.places.setdefault(verifier.imported.lookup_prefix, set()).add(verifier.imported.candidate)
            return [_unnumbered(each) for each in outcomes], None

        if not keys:
            return []
        outcomes, position = retried(attempt)
        if position is not None:
            self._cache.await_applied(position)
        return outcomes

    def _decide(
        self, account_id: AccountId, keys: Sequence[ForeignKey], source: _Source, by: Origin
    ) -> tuple[list[Outcome], list[ApiKey], list[NewVerifier]]:
        """Each key's outcome, and what is to be appended for the new ones. Deciding again decides the same."""
        rows = self._imports.like(
            account_id,
            digests=[key.hash.sha256 for key in keys if key.hash.sha256 is not None],
            hashes=[key.hash.verifier for key in keys if key.hash.algorithm is Algorithm.BCRYPT],
            prefixes=sorted({key.prefix for key in keys if key.hash.algorithm is Algorithm.BCRYPT}),
            external_ids=[key.external_id for key in keys if key.external_id is not None],
        )
        shelf = _Shelf(account_id, rows, source)
        outcomes: list[Outcome] = []
        new: list[ApiKey] = []
        verifiers: list[NewVerifier] = []
        for key in keys:
            outcome = shelf.obstacle(key)
            if outcome is None:
                key_id = KeyId.from_entropy(self._entropy.bytes(16))
                new.append(_imported(key_id, account_id, key, by, source.rotation_due_after))
                verifiers.append(NewVerifier(key_id, key.hash.verifier, None, shelf.put(account_id, key)))
                outcome = Imported(key, key_id, is_new=True)
            outcomes.append(outcome)
        return outcomes, new, verifiers


class _Shelf:
    """What is imported already, and what the source has brought before: the places that a key cannot have."""

    def __init__(self, account_id: AccountId, rows: Sequence[ImportedRow], source: _Source) -> None:
        self._account_id = account_id
        self._source = source
        self._by_verifier = {row.verifier: row for row in rows}
        self._by_external_id = {row.external_id: row for row in rows if row.account_id == account_id}
        self._places = {prefix: set(places) for prefix, places in source.places.items()}
        for row in rows:
            if row.candidate is not None:
                self._places.setdefault(row.prefix, set()).add(row.candidate)

    def obstacle(self, key: ForeignKey) -> Outcome | None:
        """The outcome of a key that cannot be imported; None for one that can."""
        first = self._source.lines.setdefault(key.hash.verifier, key.line)
        if first != key.line:
            return Refusal(key.line, "hash", f"is the same as in line {first}")
        row = self._by_verifier.get(key.hash.verifier)
        if row is not None:
            return self._repeated(key, row)
        if key.external_id is not None:
            first = self._source.external_ids.setdefault(key.external_id, key.line)
            if first != key.line:
                return Refusal(key.line, "external_id", f"is the same as in line {first}")
            row = self._by_external_id.get(key.external_id)
            if row is not None:
                return Refusal(key.line, "external_id", f"belongs to {row.key_id}, which has another hash")
        if key.hash.algorithm is Algorithm.BCRYPT and self._place(key.prefix) is None:
            message = (
                f"{CANDIDATES_MAX} keys with a bcrypt hash begin like this, which is the most: give a longer prefix"
            )
            return Refusal(key.line, "prefix", message)
        return None

    def put(self, account_id: AccountId, key: ForeignKey) -> NewImport:
        """Takes the place of a key without obstacle."""
        place = self._place(key.prefix) if key.hash.algorithm is Algorithm.BCRYPT else None
        if place is not None:
            self._places.setdefault(key.prefix, set()).add(place)
        return NewImport(
            account_id=account_id,
            algorithm=key.hash.algorithm,
            lookup_prefix=key.prefix,
            sha256=key.hash.sha256,
            bcrypt=key.hash.verifier if key.hash.algorithm is Algorithm.BCRYPT else None,
            candidate=place,
            external_id=key.external_id,
        )

    def _place(self, prefix: str) -> int | None:
        taken = self._places.get(prefix, set())
        return next((place for place in range(1, CANDIDATES_MAX + 1) if place not in taken), None)

    def _repeated(self, key: ForeignKey, row: ImportedRow) -> Outcome:
        if row.account_id != self._account_id:
            return Refusal(key.line, "hash", f"was imported before as {row.key_id}, for another account")
        if row.external_id != key.external_id:
            return Refusal(key.line, "hash", f"was imported before as {row.key_id}, with another external_id")
        return Imported(key, row.key_id, is_new=False)


def _plausible(key: ForeignKey, now: datetime) -> ForeignKey | Refusal:
    """The key, or what is wrong with its times, or that it holds itself in what is no secret."""
    if key.expires_at is not None and key.expires_at <= now:
        return Refusal(key.line, "expires_at", "must be in the future")
    if key.created_at is not None and key.created_at > now:
        return Refusal(key.line, "created_at", "must not be in the future")
    for name, text in (("prefix", key.prefix), ("name", key.name), ("external_id", key.external_id)):
        if text is not None and key.hash.is_of(text):
            return Refusal(key.line, name, "is the key itself, which must not be stored")
    return key


def _imported(
    key_id: KeyId, account_id: AccountId, key: ForeignKey, by: Origin, rotation_due_after: timedelta
) -> ApiKey:
    return ApiKey.import_(
        key_id,
        by=by,
        account_id=account_id,
        name=key.name,
        environment=key.environment,
        prefix=key.prefix,
        foreign=key.hash,
        external_id=key.external_id,
        scopes=key.scopes,
        networks=key.networks,
        created_at=key.created_at,
        expires_at=key.expires_at,
        rotation_due_after=rotation_due_after,
    )


def _unnumbered(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Imported) and outcome.is_new:
        return Imported(outcome.key, None, is_new=True)
    return outcome
