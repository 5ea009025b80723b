"""Keys that another system issued and hashed: what is read of them, so that they go on working here.

A foreign key is known by its *prefix*, the first characters of it, public, and by its hash: a bcrypt verifier, or the
SHA-256 of a key that is too random to be guessed. The key itself is never here.
"""

import hashlib
import re
from enum import StrEnum
from typing import Final, Self

BCRYPT_COST_MAX = 14
CANDIDATES_MAX = 8
PREFIX_CHARACTERS_MAX = 32

# Modular crypt format; the 22nd character of the salt and the last of the hash hold fewer than six bits. `$2x$` is the
# hash of a faulty implementation, and a cost above 14 takes more than a second.
BCRYPT: Final = re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-4])\$[./0-9A-Za-z]{21}[.Oeu][./0-9A-Za-z]{31}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_PREFIX: Final = re.compile(r"[!-~]+")
_DIGEST: Final = "sha256:"


class Algorithm(StrEnum):
    """How the other system hashed its keys."""

    BCRYPT = "bcrypt"
    SHA256 = "sha256"


# A bcrypt hash can be looked for by the prefix alone. For a SHA-256, the prefix spares stray credentials a look-up.
_PREFIX_CHARACTERS_MIN = {Algorithm.BCRYPT: 4, Algorithm.SHA256: 2}


class ForeignHash:
    """The hash of a foreign key. `verifier` is what the vault keeps: the bcrypt text, or `sha256:` and hex digits."""

    __slots__ = ("algorithm", "verifier")

    def __init__(self, algorithm: Algorithm, verifier: str) -> None:
        self.algorithm: Final = algorithm
        self.verifier: Final = verifier

    @classmethod
    def parse(cls, algorithm: Algorithm, text: str) -> Self:
        """Reads untrusted text; ValueError, without the text, for what is not such a hash."""
        if algorithm is Algorithm.BCRYPT:
            if BCRYPT.fullmatch(text) is None:
                raise ValueError(f"must be $2a$, $2b$ or $2y$, a cost from 04 to {BCRYPT_COST_MAX}, and 53 characters")
            return cls(algorithm, text)
        if _SHA256.fullmatch(text) is None:
            raise ValueError("must be 64 hexadecimal digits")
        return cls(algorithm, _DIGEST + text.lower())

    @property
    def sha256(self) -> bytes | None:
        """The SHA-256 of the key; None for bcrypt."""
        if self.algorithm is Algorithm.BCRYPT:
            return None
        return bytes.fromhex(self.verifier.removeprefix(_DIGEST))

    @property
    def verifier_digest(self) -> str:
        """The SHA-256 (hex) of the verifier, which the ledger keeps."""
        return hashlib.sha256(self.verifier.encode("ascii")).hexdigest()

    def is_of(self, text: str) -> bool:
        """Whether the text is seen to be the key itself; a bcrypt hash is not asked, and always False."""
        return self.verifier == sha256_verifier(text.encode())

    def __repr__(self) -> str:
        return f"ForeignHash({self.algorithm}, …)"


def sha256_verifier(raw: bytes) -> str:
    """The verifier of a key that was imported by its SHA-256."""
    return _DIGEST + hashlib.sha256(raw).hexdigest()


def parse_prefix(text: str, algorithm: Algorithm) -> str:
    """Reads an untrusted prefix of a key with such a hash: visible ASCII; ValueError, without the text."""
    least = _PREFIX_CHARACTERS_MIN[algorithm]
    if not least <= len(text) <= PREFIX_CHARACTERS_MAX:
        raise ValueError(f"must have {least} to {PREFIX_CHARACTERS_MAX} characters for {algorithm}")
    if _PREFIX.fullmatch(text) is None:
        raise ValueError("must be visible ASCII characters without spaces")
    return text
