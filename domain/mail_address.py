"""E-mail addresses, as far as their form tells; whether one receives is only known once it has."""

import re
import unicodedata
from typing import Self

ADDRESS_CHARACTERS_MAX = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
LOCAL_CHARACTERS_MAX = 64  # section 4.5.3.1.1
LABEL_CHARACTERS_MAX = 63

_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+")
_LABEL = re.compile(r"[A-Za-z0-9\x80-\U0010ffff]([A-Za-z0-9\x80-\U0010ffff-]*[A-Za-z0-9\x80-\U0010ffff])?")


class MailAddress(str):
    """``local@domain``: a dot-atom and a host name (RFC 5321 section 4.1.2, RFC 6531 for other scripts).

    Quoted local parts and address literals are not taken: nobody receives notices there, and they are the way into
    headers and envelopes.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Trims and checks; ValueError for anything else, without the text in it."""
        address = text.strip()
        local, at, domain = address.rpartition("@")
        well_formed = (
            len(address) <= ADDRESS_CHARACTERS_MAX
            and bool(at)
            and len(local) <= LOCAL_CHARACTERS_MAX
            and all(_ATOM.fullmatch(atom) for atom in local.split("."))
            and all(len(label) <= LABEL_CHARACTERS_MAX and _LABEL.fullmatch(label) for label in domain.split("."))
            # Of other scripts letters, marks and digits alone: no control, space, or direction-changing character.
            and all(character.isascii() or unicodedata.category(character)[0] in "LMN" for character in address)
        )
        if not well_formed:
            raise ValueError("is not an e-mail address")
        return cls(address)

    @property
    def local(self) -> str:
        """What stands before the ``@``."""
        return self.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """What follows the ``@``."""
        return self.rpartition("@")[2]
