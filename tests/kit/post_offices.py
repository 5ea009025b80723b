"""The port `PostOffice`, without a server."""

from collections.abc import Callable
from dataclasses import dataclass, field

from application.mail import Mail, Posted, Posting


def _accepts(mail: Mail) -> Posted:
    return Posted(Posting.ACCEPTED, f"taken {mail.id}", 250)


@dataclass
class ScriptedPostOffice:
    """Asks ``answer`` for what becomes of each mail, and remembers what it was handed."""

    answer: Callable[[Mail], Posted] = _accepts
    mails: list[Mail] = field(default_factory=list[Mail])

    def post(self, mail: Mail) -> Posted:
        """As ``answer`` says."""
        self.mails.append(mail)
        return self.answer(mail)

    def interrupt(self) -> None:
        """Nothing takes long here."""
