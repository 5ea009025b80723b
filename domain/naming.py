"""Names and notes that people give: short, printable, and read the way they are stored."""

import unicodedata

from domain.credential import holds_secret, without_secrets

NAME_CHARACTERS_MAX = 100
NOTE_CHARACTERS_MAX = 500
_UNPRINTABLE_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
_DIRECTION_CHARACTERS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_ISOLATE, _END_OF_ISOLATE = "\u2068", "\u2069"


class MalformedNameError(ValueError):
    """The text cannot be a name; the message says why in words for the person who typed it, and repeats none of it."""


class Name(str):
    """1 to 100 characters (code points) after trimming; no control, private-use or direction-changing characters.

    And no credential. The constructor takes what was parsed before (a row, an event) unchecked: a ledger
    may be older than a rule.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Trims and checks; raises MalformedNameError."""
        trimmed = _readable(text, characters_max=NAME_CHARACTERS_MAX)
        if not any(unicodedata.category(character) != "Cf" for character in trimmed):
            raise MalformedNameError("must not be empty")
        return cls(trimmed)


class Note(str):
    """At most 500 characters that people leave in a history; as readable as a name, and may be empty."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Note":
        """Trims and checks; raises MalformedNameError."""
        return cls(_readable(text, characters_max=NOTE_CHARACTERS_MAX))


def _readable(text: str, *, characters_max: int) -> str:
    trimmed = text.strip()
    if len(trimmed) > characters_max:
        raise MalformedNameError(f"must be at most {characters_max} characters")
    for character in trimmed:
        if _is_unprintable(character):
            raise MalformedNameError("must not contain control characters")
        if character in _DIRECTION_CHARACTERS:
            raise MalformedNameError("must not contain characters that change the direction of text")
    if holds_secret(trimmed):  # the ledger would keep it for ever
        raise MalformedNameError("must not hold a key or secret")
    return trimmed


def shown(text: str, *, characters_max: int = NAME_CHARACTERS_MAX) -> str:
    """Text that somebody else chose, fit to stand inside a sentence of ours, whatever it holds.

    One line without control or direction-changing characters, cut with an ellipsis; credentials in it are reduced to
    their prefix; what is written from right to left is isolated, so that it cannot rearrange the words around it.
    """
    kept = "".join("\ufffd" if _is_unfit(character) else character for character in " ".join(text.split()))
    safe = without_secrets(kept)
    if len(safe) > characters_max:
        safe = f"{safe[: characters_max - 1]}…"
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in safe):
        return f"{_ISOLATE}{safe}{_END_OF_ISOLATE}"
    return safe


def _is_unfit(character: str) -> bool:
    return character in _DIRECTION_CHARACTERS or _is_unprintable(character)


def _is_unprintable(character: str) -> bool:
    # Not what this Python's Unicode has not assigned yet: the next one's emoji are among it.
    return unicodedata.category(character) in _UNPRINTABLE_CATEGORIES or _is_noncharacter(ord(character))


def _is_noncharacter(code: int) -> bool:
    """Of the 66 code points that will never be characters (Unicode 23.7)."""
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE  # noqa: PLR2004 - their places
