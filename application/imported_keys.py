"""Imported keys, presented: a credential that is not ours by its tag may be one that another system issued.

Most are garbage and must stay cheap to refuse. Each process remembers the prefixes of all imported keys, usually none:
only a credential that begins with one of them is looked for in the database, by its SHA-256 exactly, or among the few
bcrypt hashes of that prefix. Such a hash costs a bcrypt until its key has been used once.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

from application.ports import CredentialHashes, Keys, StoredKey, Verifiers
from domain.access import Address, client_network
from domain.credential import CREDENTIAL_BYTES_MAX
from domain.errors import UnavailableError
from domain.foreign_key import sha256_verifier

BCRYPT_BYTES_MAX = 72
BCRYPT_PLACES = 7
BCRYPT_PLACES_OF_ONE_NETWORK = 3
BCRYPT_WAIT_SECONDS = 2.0
READS_AT_ONCE = 2
TOO_MANY = "Too many keys are presented for the first time at once"
_RECEIPT_BYTES = 32


class ImportedPrefixes:
    """The first characters of every imported key. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._by_length: tuple[tuple[int, set[bytes]], ...] = ()

    def add(self, prefixes: Iterable[str]) -> None:
        """Remembers these, too."""
        for prefix in prefixes:
            raw = prefix.encode("ascii")
            known = dict(self._by_length)
            if len(raw) in known:
                known[len(raw)].add(raw)
            else:
                # A new tuple: readers may be walking through the old one.
                self._by_length = (*self._by_length, (len(raw), {raw}))

    def replace(self, prefixes: Iterable[str]) -> None:
        """Remembers these and no others."""
        new = ImportedPrefixes()
        new.add(prefixes)
        self._by_length = new._by_length

    def of(self, raw: bytes) -> list[str]:
        """Those that the credential begins with; none for what is too long to be a credential."""
        if len(raw) > CREDENTIAL_BYTES_MAX:
            return []
        return [raw[:length].decode("ascii") for length, known in self._by_length if raw[:length] in known]


class _Places:
    """Where credentials wait for a bcrypt: few, and never all for one client network, so that others get in."""

    def __init__(self) -> None:
        self._by_network: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def taken(self, network: str) -> Generator[None]:
        """Holds a place; UnavailableError at once when there is none."""
        with self._lock:
            held = self._by_network
            if held.total() >= BCRYPT_PLACES or held[network] >= BCRYPT_PLACES_OF_ONE_NETWORK:
                raise UnavailableError(TOO_MANY)
            held[network] += 1
        try:
            yield
        finally:
            with self._lock:
                held[network] -= 1
                if not held[network]:
                    del held[network]


class ImportedKeys:
    """Finds the imported key that a credential is, and keeps its receipt, so that bcrypt is paid once for each key."""

    def __init__(
        self, *, keys: Keys, prefixes: ImportedPrefixes, hashes: CredentialHashes, verifiers: Verifiers
    ) -> None:
        self._keys = keys
        self._prefixes = prefixes
        self._hashes = hashes
        self._verifiers = verifiers
        # Whoever knows a prefix can make up credentials that cost a read, and a bcrypt: few at a time, and apart from
        # the bcrypts of our own keys.
        self._reads = BoundedSemaphore(READS_AT_ONCE)
        self._bcrypt = BoundedSemaphore(1)
        self._places = _Places()

    def may_be(self, raw: bytes) -> bool:
        """Whether an imported key begins like this credential; from memory."""
        return bool(self._prefixes.of(raw))

    def find(self, raw: bytes, client: Address | None) -> StoredKey | None:
        """The imported key that this credential proves to be; None when there is none.

        Raises UnavailableError when bcrypts are asked for faster than they can be computed, all in all or by the
        client's network.
        """
        prefixes = self._prefixes.of(raw)
        if not prefixes:
            return None
        digest = sha256_verifier(raw)
        with self._reads:
            found = self._keys.imported(digest, prefixes)
        for key in found:
            if key.receipt is not None and self._hashes.receipt_is_valid(raw, key.receipt[:_RECEIPT_BYTES]):
                return key
        for key in found:
            if key.verifier == digest:
                return self._kept(key, raw)
        candidates = [key for key in found if not self._is_settled(key)]
        if not candidates or len(raw) > BCRYPT_BYTES_MAX:
            return None
        with self._places.taken("" if client is None else client_network(client)):
            proven = self._by_bcrypt(raw, candidates)
        return None if proven is None else self._kept(proven, raw)

    def _by_bcrypt(self, raw: bytes, candidates: Sequence[StoredKey]) -> StoredKey | None:
        if not self._bcrypt.acquire(timeout=BCRYPT_WAIT_SECONDS):
            raise UnavailableError(TOO_MANY)
        try:
            return next((key for key in candidates if self._verifiers.verify_foreign(raw, key.verifier)), None)
        finally:
            self._bcrypt.release()

    def _kept(self, key: StoredKey, raw: bytes) -> StoredKey:
        # The second half is made of the id: as long as it is valid so is the first, and no bcrypt can say otherwise.
        receipt = self._hashes.receipt(raw) + self._hashes.receipt(key.facts.key_id.encode("ascii"))
        self._keys.keep_receipt(key.facts.key_id, receipt)
        return key

    def _is_settled(self, key: StoredKey) -> bool:
        """Whether its receipt was made under a secret that we have: a credential that does not fit it is another."""
        if key.verifier.startswith("sha256:"):
            return True
        receipt = key.receipt
        if receipt is None:
            return False
        return self._hashes.receipt_is_valid(key.facts.key_id.encode("ascii"), receipt[_RECEIPT_BYTES:])
