"""Mail without a mail server: one file for each message in a folder, and a line in the log."""

import os
from contextlib import suppress
from pathlib import Path

import structlog

from application.mail import Mail, Posted, Posting, Sender
from infrastructure.mail_message import message_of

MESSAGES_MAX = 1_000

log = structlog.get_logger()


class Mailbox:
    """The port `PostOffice`: the newest messages, as files that any mail program opens.

    The folder is made with the first message, for its owner's eyes alone. A file's name is the message's time and id,
    so that a message posted again replaces itself; beyond ``messages_max`` the oldest go.
    """

    def __init__(self, folder: Path, sender: Sender, *, messages_max: int = MESSAGES_MAX) -> None:
        self._folder = folder
        self._sender = sender
        self._messages_max = messages_max

    def post(self, mail: Mail) -> Posted:
        """Writes the message, whole or not at all."""
        name = f"{mail.at:%Y%m%dT%H%M%SZ}-{mail.id}.eml"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._folder / f".{name}.{os.getpid()}"
            draft.touch(mode=0o600)
            draft.write_bytes(message_of(mail, self._sender).as_bytes())
            draft.replace(self._folder / name)
            self._forget_oldest()
        except OSError as error:
            return Posted(Posting.LATER, f"the mailbox cannot be written: {error.strerror}")
        log.info("mail_kept_in_mailbox", mail_id=mail.id, list_id=mail.list_id, file=str(self._folder / name))
        return Posted(Posting.ACCEPTED, f"kept in {self._folder.name}/{name}")

    def interrupt(self) -> None:
        """Nothing takes long here."""

    def _forget_oldest(self) -> None:
        # Names, not paths: to make and compare a thousand paths takes 9 ms, twice the rest of the mail; names 1 ms.
        kept = [name for name in os.listdir(self._folder) if name.endswith(".eml")]  # noqa: PTH208 - as above
        for name in sorted(kept)[: -self._messages_max]:
            with suppress(FileNotFoundError):  # another process was faster
                (self._folder / name).unlink()
