"""Bearer to principal: "include your API key in the Authorization header", checked on every request.

grammar → tag → known → proof → `verdict.judge`. What ends early ends cheaply: a forged key costs no look-up, and only a
key without a receipt costs a bcrypt.
"""

from dataclasses import dataclass
from threading import BoundedSemaphore

from application.ports import Clock, CredentialHashes, Keys, StoredKey, Verifiers
from domain.access import Address, Feature, Scope
from domain.credential import Environment, PresentedKey, parse_key
from domain.ids import AccountId, KeyId
from domain.verdict import Attempt, KeyFacts, Verdict, judge

BCRYPT_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Need:
    """What a route asks of a key: a scope, and a part of the product; None asks nothing."""

    scope: Scope | None = None
    feature: Feature | None = None


@dataclass(frozen=True, slots=True)
class Authentication:
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


class Authenticator:
    """Decides whether a credential is accepted, now. Reads the keys' view for every request."""

    def __init__(
        self,
        *,
        keys: Keys,
        hashes: CredentialHashes,
        verifiers: Verifiers,
        clock: Clock,
        environments: frozenset[Environment],
    ) -> None:
        self._keys = keys
        self._hashes = hashes
        self._verifiers = verifiers
        self._clock = clock
        self._environments = environments
        self._bcrypt = BoundedSemaphore(BCRYPT_AT_ONCE)

    def authenticate(
        self,
        raw: bytes | None,
        *,
        need: Need,
        client: Address | None,
        environment: Environment | None = None,
    ) -> Authentication:
        """The verdict on ``raw``, the credential as sent, None when there was none.

        Raises UnavailableError when the view cannot be read: what cannot be checked is not accepted.
        """
        if raw is None:
            return Authentication(Verdict.MISSING)
        key_hash = self._hashes.log_hash(raw)
        presented = parse_key(raw)
        if presented is None:
            return Authentication(Verdict.MALFORMED, key_hash=key_hash)
        key_id = presented.key_id
        if not self._hashes.tag_is_valid(presented.signed, presented.tag):
            return Authentication(Verdict.FORGED, key_id=key_id, key_hash=key_hash)
        stored = self._keys.stored(key_id)
        if stored is None:
            return Authentication(Verdict.UNKNOWN, key_id=key_id, key_hash=key_hash)
        if not self._proven(presented, stored):
            return Authentication(Verdict.WRONG_SECRET, key_id=key_id, key_hash=key_hash)
        attempt = Attempt(
            client=client,
            scope=need.scope,
            feature=need.feature,
            environments=self._environments,
            environment=environment,
        )
        verdict = judge(stored.facts, attempt, self._clock.now())
        return Authentication(verdict, stored.facts, key_id, key_hash)

    def _proven(self, presented: PresentedKey, stored: StoredKey) -> bool:
        if presented.environment is not stored.facts.environment:
            return False
        if stored.receipt is not None and self._hashes.receipt_is_valid(presented.raw, stored.receipt):
            return True
        # No receipt, or one under a secret that is gone: one bcrypt, and the next use has a receipt again.
        with self._bcrypt:
            if not self._verifiers.verify(presented.raw, stored.verifier):
                return False
        self._keys.keep_receipt(stored.facts.key_id, self._hashes.receipt(presented.raw))
        return True
