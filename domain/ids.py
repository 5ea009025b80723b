"""Typed ids: a prefix that names the kind, and base62 characters that mean nothing.

They are strings, so the event library, JSON and SQL take them as they are.
"""

import hashlib
import string
from typing import ClassVar, Self

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
ENTROPY_BYTES_MIN = 16


class MalformedIdError(ValueError):
    """The text is not an id of the kind that was asked for; the message never repeats the text."""


def base62(number: int, length: int) -> str:
    """Write a number as exactly `length` characters of BASE62, most significant first, padded with `0`.

    A negative number, or one of 62**length or more, raises ValueError.
    """
    characters: list[str] = []
    rest = number
    for _ in range(length):
        rest, digit = divmod(rest, 62)
        characters.append(BASE62[digit])
    if rest:
        raise ValueError(f"the number does not fit {length} base62 characters")
    return "".join(reversed(characters))


class Id(str):
    """An opaque id: PREFIX and then LENGTH base62 characters.

    Untrusted text enters through `parse`; the constructor takes what was parsed before (a row, an event) unchecked.
    """

    __slots__ = ()
    PREFIX: ClassVar[str]
    LENGTH: ClassVar[int] = 16

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read untrusted text; anything but PREFIX and LENGTH base62 characters raises MalformedIdError."""
        characters = text[len(cls.PREFIX) :]
        well_formed = (
            len(characters) == cls.LENGTH
            and text.startswith(cls.PREFIX)
            # Together these two are exactly [0-9A-Za-z]+: `isalnum` alone takes the digits of other scripts.
            and characters.isascii()
            and characters.isalnum()
        )
        if not well_formed:
            raise MalformedIdError(f"not an id of the form {cls.PREFIX}… with {cls.LENGTH} letters and digits")
        return cls(text)

    @classmethod
    def from_entropy(cls, entropy: bytes) -> Self:
        """Make an id of random bytes: the big-endian number modulo 62**LENGTH.

        Fewer than 16 bytes raise ValueError, since the ids would lean towards small numbers.
        """
        if len(entropy) < ENTROPY_BYTES_MIN:
            raise ValueError(f"an id needs at least {ENTROPY_BYTES_MIN} random bytes, not {len(entropy)}")
        return cls(cls.PREFIX + base62(int.from_bytes(entropy, "big") % 62**cls.LENGTH, cls.LENGTH))


class AccountId(Id):
    """`acc_…`: a customer."""

    __slots__ = ()
    PREFIX = "acc_"


class KeyId(Id):
    """`key_…`: an API key; its nine characters are the readable id inside the key, too."""

    __slots__ = ()
    PREFIX = "key_"
    LENGTH = 9


class RotationId(Id):
    """`rot_…`: the rotation of one key; its nine characters are the key's."""

    __slots__ = ()
    PREFIX = "rot_"
    LENGTH = 9

    @classmethod
    def of_key(cls, key_id: KeyId) -> Self:
        """The one rotation that a key can have: whoever asks again finds the same."""
        return cls(cls.PREFIX + key_id.removeprefix(KeyId.PREFIX))


class CampaignId(Id):
    """`cmp_…`: a campaign."""

    __slots__ = ()
    PREFIX = "cmp_"


class InterviewId(Id):
    """`int_…`: an interview of a campaign."""

    __slots__ = ()
    PREFIX = "int_"


class InviteId(Id):
    """`inv_…`: an invitation to an interview."""

    __slots__ = ()
    PREFIX = "inv_"


class WebhookEndpointId(Id):
    """`whe_…`: a destination of webhooks."""

    __slots__ = ()
    PREFIX = "whe_"


class WebhookFailureId(Id):
    """`whf_…`: one failure of one destination of webhooks."""

    __slots__ = ()
    PREFIX = "whf_"

    @classmethod
    def of(cls, endpoint_id: WebhookEndpointId, number: int) -> Self:
        """The id of an endpoint's failure of that number: whoever asks again finds the same."""
        return cls.from_entropy(hashlib.sha256(f"{endpoint_id}\n{number}".encode()).digest())


class RunId(Id):
    """`run_…`: one run of one process, from its start to its end."""

    __slots__ = ()
    PREFIX = "run_"


class PurgeId(Id):
    """`pur_…`: a day's leaving the access log."""

    __slots__ = ()
    PREFIX = "pur_"


class RequestId(Id):
    """`req_…`: one HTTP request or one command of the CLI."""

    __slots__ = ()
    PREFIX = "req_"
    LENGTH = 22
