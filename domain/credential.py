"""The grammar of credentials, and the type that keeps a secret from being printed.

    sk_live_7Hq2mB9xT_<32 characters of secret><11 characters of tag>      an API key
        inv_7Hq2mB9xT_<32 characters of secret><11 characters of tag>      an invite token

All characters after the fixed words are base62. The tag authenticates everything before it, so that a forged or
mistyped credential is refused without a look at any store. In text, tokens of sessions (`ses_` and nine base62
characters, then `_` and the secret) and secrets of webhooks (`whsec_` and base64) are known as well.
"""

import hmac
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NoReturn

from domain.ids import KeyId, base62

CREDENTIAL_BYTES_MAX = 512
ID_CHARACTERS = 9
SECRET_CHARACTERS = 32
SECRET_ENTROPY_BYTES_MIN = 32
TAG_BYTES = 11

# What a secret scanner (gitleaks, and those that take its rules) needs to find our credentials in text.
SCANNER_RULE = r"\b(?:sk_(?:dev|staging|live)|inv)_[0-9A-Za-z]{9}_[0-9A-Za-z]{43}\b"

_WITH_SECRET = re.compile(
    # Inside a word a session only with a long secret: `addresses_processed_at` is none.
    r"((?:sk_(?:dev|staging|live)|inv|(?<![0-9A-Za-z])ses|ses(?=_[0-9A-Za-z]{9}_[0-9A-Za-z]{12}))"
    # Gone is all that could be another credential without a space between, or the rest of that would stay; and a
    # webhook's secret may have `+`, `/` and `=`, so one that begins in what looks like an id must not be cut there.
    r"_[0-9A-Za-z]{9}(?<!whsec))_(?:[0-9A-Za-z_-]*whsec_[0-9A-Za-z+/=_-]*|[0-9A-Za-z_-]+)"
    r"|(whsec_)[0-9A-Za-z+/=_-]+"
)
# What credentials are made of, percent-encoded (RFC 3986), once or more: a path that was decoded may be encoded still.
_ENCODED = re.compile(r"%(?:25)*(2[BbDdFf]|3[0-9Dd]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9Aa])")
_HOLDS_SECRET = re.compile(
    r"(?:sk_(?:dev|staging|live)|inv|ses)_[0-9A-Za-z]{9}_[0-9A-Za-z]{16}|whsec_[0-9A-Za-z+/=_-]{16}"
)
_KEY = re.compile(rb"sk_(live|staging|dev)_([0-9A-Za-z]{9})_[0-9A-Za-z]{32}([0-9A-Za-z]{11})")
_INVITE = re.compile(rb"inv_([0-9A-Za-z]{9})_[0-9A-Za-z]{32}([0-9A-Za-z]{11})")


class Environment(StrEnum):
    """Where a key works; a key of one environment is refused in the others."""

    LIVE = "live"
    STAGING = "staging"
    DEV = "dev"


_ENVIRONMENTS = {environment.value.encode(): environment for environment in Environment}


class Secret:
    """A whole credential that prints as its public prefix and an ellipsis, wherever it ends up.

    Only `reveal` gives the text. It cannot be hashed, copied, pickled or written as JSON; `==` takes the same time
    wherever two secrets of one length differ.
    """

    __slots__ = ("_shown", "_text")
    __hash__ = None  # pyright: ignore[reportAssignmentType] # a set or dict key would compare secrets by plain text

    def __init__(self, text: str, shown: str) -> None:
        self._text = text
        self._shown = shown

    def reveal(self) -> str:
        """The text itself, for the one answer that shows it."""
        return self._text

    @property
    def shown(self) -> str:
        """The public prefix: safe in listings, logs and messages."""
        return self._shown

    def __repr__(self) -> str:
        return f"{self._shown}…"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is neither copied nor pickled")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is neither copied nor pickled")


class PresentedKey:
    """A credential of correct grammar, as somebody sent it; nothing yet says that it is genuine.

    It prints as its public prefix, and like a Secret it cannot be copied, pickled or written as JSON, which is why
    it is not a dataclass: serialisers write those out unasked.

    `environment` is None for an invite token, which belongs to its interview instead; `id` is the nine base62
    characters that name it, public; `signed` is all before the tag, what the tag authenticates.
    """

    __slots__ = ("environment", "id", "raw", "signed", "tag")

    def __init__(
        self,
        raw: bytes,
        environment: Environment | None,
        id: str,  # noqa: A002 - the same word as the attribute
        signed: bytes,
        tag: bytes,
    ) -> None:
        self.raw: Final = raw
        self.environment: Final = environment
        self.id: Final = id
        self.signed: Final = signed
        self.tag: Final = tag

    @property
    def key_id(self) -> KeyId:
        """The id of the API key; meaningless for an invite token."""
        return KeyId("key_" + self.id)

    @property
    def prefix(self) -> str:
        """What listings and logs show of it: `sk_live_7Hq2mB9xT`, `inv_7Hq2mB9xT`."""
        if self.environment is None:
            return f"inv_{self.id}"
        return f"sk_{self.environment}_{self.id}"

    def __repr__(self) -> str:
        return f"PresentedKey({self.prefix}…)"

    def __getstate__(self) -> NoReturn:
        raise TypeError("a credential is neither copied nor pickled")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a credential is neither copied nor pickled")


def parse_key(raw: bytes) -> PresentedKey | None:
    """Read an API key; None for whatever is not one, byte for byte."""
    if len(raw) > CREDENTIAL_BYTES_MAX:
        return None
    match = _KEY.fullmatch(raw)
    if match is None:
        return None
    environment, key_id, tag = match.groups()
    return PresentedKey(raw, _ENVIRONMENTS[environment], key_id.decode("ascii"), raw[:-TAG_BYTES], tag)


def parse_invite(raw: bytes) -> PresentedKey | None:
    """Read an invite token; None for whatever is not one, byte for byte."""
    if len(raw) > CREDENTIAL_BYTES_MAX:
        return None
    match = _INVITE.fullmatch(raw)
    if match is None:
        return None
    invite_id, tag = match.groups()
    return PresentedKey(raw, None, invite_id.decode("ascii"), raw[:-TAG_BYTES], tag)


def without_secrets(text: str) -> str:
    """The text with each credential in it, whole or cut, reduced to its public prefix and an ellipsis.

    A webhook's secret has no public part but the word: `whsec_…`. One that is percent-encoded is shown decoded.
    """
    plain = with_credentials_decoded(text) if "%" in text else text
    # The words first: most texts have none, and the rule takes twenty times as long to find none.
    if "sk_" in plain or "inv_" in plain or "ses_" in plain or "whsec_" in plain:
        return _WITH_SECRET.sub(r"\1\2…", plain)
    return plain


def with_credentials_decoded(text: str) -> str:
    """The text with its percent-encoded letters decoded, if that brings a credential to light; or else as it is."""
    decoded = _ENCODED.sub(_decoded, text)
    return decoded if decoded != text and _WITH_SECRET.search(decoded) else text


def _decoded(encoded: re.Match[str]) -> str:
    return chr(int(encoded.group(1), 16))


def holds_secret(text: str) -> bool:
    """Whether a credential is in the text, at least sixteen characters of its secret; a mere look-alike is none."""
    return _HOLDS_SECRET.search(text) is not None


def mint_key(
    environment: Environment, *, id_entropy: bytes, secret_entropy: bytes, tag: Callable[[bytes], bytes]
) -> tuple[KeyId, Secret]:
    """Make a key of at least 16 random bytes for its id and 32 for its secret.

    `tag` gives the eleven base62 bytes that authenticate its argument. Too little entropy, or a tag outside the
    grammar, raises ValueError.
    """
    if len(secret_entropy) < SECRET_ENTROPY_BYTES_MIN:
        raise ValueError(f"a secret needs at least {SECRET_ENTROPY_BYTES_MIN} random bytes, not {len(secret_entropy)}")
    key_id = KeyId.from_entropy(id_entropy)
    shown = f"sk_{environment}_{key_id.removeprefix(KeyId.PREFIX)}"
    secret = base62(int.from_bytes(secret_entropy, "big") % 62**SECRET_CHARACTERS, SECRET_CHARACTERS)
    signed = f"{shown}_{secret}".encode("ascii")
    raw = signed + tag(signed)
    if parse_key(raw) is None:
        raise ValueError("the tag is not eleven base62 characters")
    return key_id, Secret(raw.decode("ascii"), shown)
