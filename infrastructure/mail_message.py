"""A mail as the bytes of RFC 5322: text and HTML beside one another, the headers of an automatic message."""

from email.headerregistry import Address, BaseHeader, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8, Policy
from typing import Any

from application.mail import Mail, Sender


class _OneWord(UnstructuredHeader, BaseHeader):
    """A header of a single word, in one line: the library's folding would cut and encode a long address in it."""

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """There is nothing to parse."""
        kwds["decoded"] = value
        kwds["parse_tree"] = None

    def fold(self, *, policy: Policy) -> str:
        return f"{self.name}: {self}{policy.linesep}"


class _Headers(HeaderRegistry):
    """Keeps the class of each header; the library makes one for each header of each part."""

    def __init__(self) -> None:
        super().__init__()
        self._classes: dict[str, type[BaseHeader]] = {}
        for name in ("auto-submitted", "list-id", "list-unsubscribe", "list-unsubscribe-post", "message-id"):
            self.map_to_type(name, _OneWord)

    def __getitem__(self, name: str) -> type[BaseHeader]:
        kept = self._classes.get(name)
        if kept is None:
            kept = self._classes[name] = super().__getitem__(name)
        return kept


_headers = _Headers()

# Seven bits, so that every relay takes it as it is; lines of the body are encoded, and so never too long.
_POLICY = SMTP.clone(cte_type="7bit", header_factory=_headers)
_POLICY_UTF8 = SMTPUTF8.clone(cte_type="7bit", header_factory=_headers)


def message_id(mail: Mail, sender: Sender) -> str:
    """The Message-ID: the same each time this mail is sent from this address (RFC 5322 section 3.6.4)."""
    return f"<{mail.id}@{_ascii(sender.address.domain)}>"


def message_of(mail: Mail, sender: Sender) -> EmailMessage:
    """The message; ValueError when a header would hold a line break, which nothing of ours does."""
    is_ascii = mail.to.isascii() and sender.address.isascii()
    message = EmailMessage(_POLICY if is_ascii else _POLICY_UTF8)
    message["From"] = Address(sender.name, sender.address.local, sender.address.domain)
    message["To"] = Address("", mail.to.local, mail.to.domain)
    # The library decodes encoded words in what it is given, and writes the line breaks in them as they are.
    message["Subject"] = mail.subject.replace("=?", "= ?")
    message["Date"] = mail.at
    message["Message-ID"] = message_id(mail, sender)
    # RFC 3834: no vacation notice is to answer this.
    message["Auto-Submitted"] = "auto-generated"
    message["List-Id"] = f"<{mail.list_id}.keyledger.{_ascii(sender.address.domain)}>"
    if mail.mute_url is not None:
        message["List-Unsubscribe"] = f"<{mail.mute_url}>"
        if mail.mute_url.startswith("https://"):  # RFC 8058 section 3.1 asks for it
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(mail.text)
    message.add_alternative(mail.html, subtype="html")
    # The library's boundaries are random; the same mail is to be the same bytes.
    message.set_boundary(f"=_{mail.id}")
    return message


def _ascii(domain: str) -> str:
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return "keyledger.invalid"
