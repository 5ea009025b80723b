"""Secrets at rest: authenticated encryption under subkeys that are not in the database.

0x01, 12 bytes of nonce, AES-256-GCM (NIST SP 800-38D) ciphertext and tag
"""

from collections.abc import Sequence
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infrastructure.system import SystemEntropy

_FORM: Final = b"\x01"
_NONCE_BYTES: Final = 12


class Sealer:
    """Seals with the newest of the keys, 32 bytes each, and opens with any of them. It never prints, nor is pickled."""

    __slots__ = ("_ciphers", "_entropy")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers: Final = tuple(map(AESGCM, keys))
        self._entropy: Final = SystemEntropy()

    def seal(self, plain: bytes, context: str) -> bytes:
        """What `open` takes back under the same ``context``, which names the row that it is for."""
        nonce = self._entropy.bytes(_NONCE_BYTES)
        return _FORM + nonce + self._ciphers[0].encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes | None:
        """The plain bytes; None for what none of the keys sealed for that row."""
        form, nonce, ciphertext = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if form != _FORM:
            return None
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, ciphertext, context.encode())
            except (InvalidTag, ValueError):
                continue
        return None

    def __repr__(self) -> str:
        return f"Sealer({len(self._ciphers)} keys)"

    def __getstate__(self) -> NoReturn:
        raise TypeError("keys are neither copied nor pickled")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("keys are neither copied nor pickled")
