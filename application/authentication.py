"""Bearer to principal: "include your API key in the Authorization header", checked on every request.

grammar → tag → known → proof → `verdict.judge`. What ends early ends cheaply: a forged key costs no look-up, and only a
key without a receipt costs a bcrypt.
"""

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from threading import BoundedSemaphore, Lock
from typing import NamedTuple

from application.imported_keys import BCRYPT_WAIT_SECONDS, TOO_MANY, ImportedKeys
from application.ports import Clock, CredentialHashes, Keys, StoredKey, Verifiers
from application.verified_keys import VerifiedKey, VerifiedKeys
from domain.access import Address, Feature, Scope
from domain.credential import Environment, PresentedKey, parse_key
from domain.errors import UnavailableError
from domain.ids import AccountId, KeyId
from domain.verdict import Attempt, KeyFacts, Verdict, judge, open_until, permission

BCRYPT_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Need:
    """What a route asks of a key: a scope, and a part of the product; None asks nothing."""

    scope: Scope | None = None
    feature: Feature | None = None


class Authentication(NamedTuple):
    """The answer to one presented credential.

    ``facts`` is None unless the credential is a known key with the right secret; ``key_id`` is what was presented,
    whether or not it belongs to anybody; ``key_hash`` is None when nothing was sent.
    """

    verdict: Verdict
    facts: KeyFacts | None = None
    key_id: KeyId | None = None
    key_hash: str | None = None

    @property
    def account_id(self) -> AccountId | None:
        """The key's owner, where the key is known."""
        return None if self.facts is None else self.facts.account_id


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one look-up found: a proven key, or a refusal. ``read_at``: the snapshot's position, 0 for no such key."""

    found: VerifiedKey | Authentication
    read_at: int = 0


class Authenticator:
    """Decides whether a credential is accepted, now.

    ``recall`` answers from memory and is fit for an event loop; what it cannot answer ``look_up`` does, in a thread.
    """

    def __init__(  # noqa: PLR0913 - the ports it stands on
        self,
        *,
        keys: Keys,
        verified: VerifiedKeys,
        hashes: CredentialHashes,
        verifiers: Verifiers,
        clock: Clock,
        environments: frozenset[Environment],
    ) -> None:
        self._keys = keys
        self._verified = verified
        self._hashes = hashes
        self._verifiers = verifiers
        self._clock = clock
        self._environments = environments
        self._imported = ImportedKeys(keys=keys, prefixes=verified.prefixes, hashes=hashes, verifiers=verifiers)
        self._bcrypt = BoundedSemaphore(BCRYPT_AT_ONCE)
        self._readings: dict[bytes, Future[_Reading]] = {}
        self._reading_lock = Lock()
        self._look_ups = 0
        self._recalled = 0
        self._accepted = 0

    def recall(
        self, raw: bytes | None, *, need: Need, client: Address | None, environment: Environment | None = None
    ) -> Authentication | None:
        """The verdict on a credential as sent (None: there was none); None when the key has to be looked up.

        Raises UnavailableError when this process cannot prove that what it remembers is still true.
        """
        if raw is None:
            return _NOTHING_SENT
        if not self._verified.is_fresh:
            raise UnavailableError("Cannot prove that the key is still valid")
        known = self._verified.recall(self._verified.fingerprint(raw))
        if known is not None:
            self._recalled += 1
            return self._judged(known, need, client, environment)
        presented = self._presented(raw)
        if isinstance(presented, PresentedKey) or self._imported.may_be(raw):
            return None
        return presented

    def accepted(self, raw: bytes, client: Address | None, elapsed: float, now: datetime) -> VerifiedKey | None:
        """The key of a credential that is remembered, fresh and accepted at ``now``, where nothing more is asked of it.

        ``elapsed`` is the same instant by the lease's clock, and not before the request came in: what was true then
        may be answered. None in every other case, whatever the reason: ``recall`` tells.
        """
        verified = self._verified
        if verified.marks[0] != verified.heard:  # as `is_fresh` does, without its call and its clock
            verified.hear()
        if elapsed >= verified.fresh_until:
            return None
        known = verified.recall(verified.fingerprint(raw))
        if known is None or (now >= known.open_until and not self._is_open(known.facts, client, now)):
            return None
        self._accepted += 1
        return known

    @property
    def hits(self) -> int:
        """How many credentials were remembered; ``recall`` and ``accepted`` are each asked by one thread."""
        return self._recalled + self._accepted

    @property
    def look_ups(self) -> int:
        """How many credentials were not remembered."""
        return self._look_ups

    def is_ours(self, raw: bytes) -> bool:
        """Whether the credential bears our tag; what ``look_up`` does for others, anybody can cause."""
        return isinstance(self._presented(raw), PresentedKey)

    def owner_of(self, key_id: KeyId) -> AccountId | None:
        """Whose key bears that id, whether or not it was proven; None: nobody's. One indexed read, for a thread."""
        stored = self._keys.stored(key_id)
        return None if stored is None else stored.facts.account_id

    def look_up(
        self, raw: bytes, *, need: Need, client: Address | None, environment: Environment | None = None
    ) -> Authentication:
        """As ``recall``, for a credential that it could not answer; one look-up at a time for each credential.

        Raises UnavailableError when the view cannot be read, or bcrypts are asked for faster than they can be computed:
        what cannot be checked is not accepted.
        """
        fingerprint = self._verified.fingerprint(raw)
        known_through = self._verified.known_through
        mine: Future[_Reading] = Future()
        with self._reading_lock:
            reading = self._readings.setdefault(fingerprint, mine)
            self._look_ups += 1
        if reading is mine:
            try:
                mine.set_result(self._read(raw, fingerprint, client))
            except BaseException as error:
                mine.set_exception(error)
                raise
            finally:
                with self._reading_lock:
                    del self._readings[fingerprint]
        result = reading.result()
        if reading is not mine and result.read_at < known_through:
            # It was begun before a change that this process knew of when this request came in.
            result = self._read(raw, fingerprint, client)
        found = result.found
        return found if isinstance(found, Authentication) else self._judged(found, need, client, environment)

    def _is_open(self, facts: KeyFacts, client: Address | None, now: datetime) -> bool:
        return judge(facts, Attempt(client, None, None, self._environments, None), now) is Verdict.OK

    def _judged(
        self, known: VerifiedKey, need: Need, client: Address | None, environment: Environment | None
    ) -> Authentication:
        facts, now = known.facts, self._clock.now()
        if environment is None and now < known.open_until:
            verdict = permission(facts, need.scope, need.feature)
        else:
            verdict = judge(facts, Attempt(client, need.scope, need.feature, self._environments, environment), now)
        return Authentication(verdict, facts, facts.key_id, known.key_hash)

    def _read(self, raw: bytes, fingerprint: bytes, client: Address | None) -> _Reading:
        key_hash = self._hashes.log_hash(raw)
        presented = self._presented(raw)
        if isinstance(presented, Authentication):
            imported = self._imported.find(raw, client)
            return _Reading(presented) if imported is None else self._remembered(fingerprint, imported, key_hash)
        stored = self._keys.stored(presented.key_id)
        if stored is None:
            return _Reading(Authentication(Verdict.UNKNOWN, key_id=presented.key_id, key_hash=key_hash))
        if not self._proven(presented, stored):
            return _Reading(Authentication(Verdict.WRONG_SECRET, key_id=presented.key_id, key_hash=key_hash))
        return self._remembered(fingerprint, stored, key_hash)

    def _presented(self, raw: bytes) -> PresentedKey | Authentication:
        """The key of ours that it is by grammar and tag, or its refusal."""
        presented = parse_key(raw)
        if presented is None:
            return Authentication(Verdict.MALFORMED, key_hash=self._hashes.log_hash(raw))
        if not self._hashes.tag_is_valid(presented.signed, presented.tag):
            return Authentication(Verdict.FORGED, key_id=presented.key_id, key_hash=self._hashes.log_hash(raw))
        return presented

    def _remembered(self, fingerprint: bytes, stored: StoredKey, key_hash: str) -> _Reading:
        key = VerifiedKey(stored.facts, key_hash, open_until(stored.facts, self._environments))
        self._verified.remember(fingerprint, key, read_at=stored.read_at)
        return _Reading(key, stored.read_at)

    def _proven(self, presented: PresentedKey, stored: StoredKey) -> bool:
        if presented.environment is not stored.facts.environment:
            return False
        if stored.receipt is not None and self._hashes.receipt_is_valid(presented.raw, stored.receipt):
            return True
        # No receipt, or one under a secret that is gone: one bcrypt, and the next use has a receipt again.
        if not self._bcrypt.acquire(timeout=BCRYPT_WAIT_SECONDS):
            raise UnavailableError(TOO_MANY)  # those behind it may have their receipts
        try:
            if not self._verifiers.verify(presented.raw, stored.verifier):
                return False
        finally:
            self._bcrypt.release()
        self._keys.keep_receipt(stored.facts.key_id, self._hashes.receipt(presented.raw))
        return True


_NOTHING_SENT = Authentication(Verdict.MISSING)
