"""Mail as the service hands it over: one message to one address, and what became of it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Protocol

from domain.mail_address import MailAddress

SAID_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed over. ``is_encrypted``: TLS from the first byte; ``user`` None: no authentication."""

    host: str
    port: int
    is_encrypted: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this machine on the way there."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def must_be_proven(self) -> bool:
        """Whether nothing is said to a server whose certificate does not hold: a password would be given away."""
        return self.is_encrypted or (self.user is not None and not self.is_loopback)


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom mail comes from: the name that people see, and the address that errors go back to."""

    address: MailAddress
    name: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """One message. All of it is the same each time it is handed over.

    ``id`` is all letters, digits, dots, dashes and underscores; Message-ID is made of it. ``at`` is its Date.
    ``list_id`` names the kind. ``mute_url`` None: this kind is not turned off by a link.
    """

    id: str
    to: MailAddress
    subject: str
    text: str
    html: str
    at: datetime
    list_id: str
    mute_url: str | None = None


class Posting(StrEnum):
    """What became of a message that was handed over."""

    ACCEPTED = "accepted"
    """The server has taken it, and answers for it from here on."""
    LATER = "later"
    """Not now; or nobody knows, as when the connection broke behind the last byte. To be tried again."""
    NEVER = "never"
    """The server refuses this message to this address for good (RFC 5321 section 4.2.1, 5yz)."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The outcome, and what the server or the system said about it, in at most 300 characters of one line.

    ``code``: the server's reply code; None where it did not come to one.
    """

    posting: Posting
    said: str
    code: int | None = None


class PostOffice(Protocol):
    """Takes mail."""

    def post(self, mail: Mail) -> Posted:
        """Hands the message over, and answers in bounded time whatever the other side does; raises nothing."""
        ...

    def interrupt(self) -> None:
        """Ends what is being handed over in other threads at once, each as `LATER`."""
        ...
