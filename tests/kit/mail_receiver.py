"""A real SMTP server for tests (aiosmtpd), in a process of its own, that behaves and misbehaves as it is told.

Each message takes the next word of the script; when it is empty, messages are accepted. A word is

    accept            250
    451 …, 550 …      that answer at the end of DATA
    RCPT 550 …        that answer to RCPT, and in the same way MAIL
    stall SECONDS     nothing is said for so long at the end of DATA, and then 250
    drop              taken and kept, and the connection is cut in place of an answer
    hang up           the connection is cut before the message is asked for
"""

import asyncio
import json
import ssl
import subprocess
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.kit.service import CHECKOUT, HOST, eventually, free_port

USER, PASSWORD = "keyledger", "p@ss:word/1"
STOP_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Received:
    """A message that the server has taken; ``is_encrypted`` and ``user`` are those of its session."""

    recipients: tuple[str, ...]
    sender: str
    is_encrypted: bool
    user: str | None
    message: EmailMessage

    @property
    def id(self) -> str:
        """Its Message-ID."""
        return str(self.message["Message-ID"])


class MailReceiver:
    """The server, from entering to leaving; on one port, so that it can go away and come back.

    ``tls``: ``starttls`` offers it, ``smtps`` speaks it from the first byte; both with a certificate for localhost of
    an authority of this receiver's own, ``authority``. ``auth``: a user has to log in.
    """

    def __init__(self, place: Path, *, tls: str | None = None, auth: bool = False) -> None:
        self.port = free_port()
        self.authority = trustme.CA()
        self.authority_file = place / "authority.pem"
        self._mails = place / "mails.jsonl"
        self._errors = place / "mail.stderr"
        self._options = {"port": self.port, "mails": str(self._mails), "tls": tls, "auth": auth}
        place.mkdir(parents=True, exist_ok=True)
        self._mails.touch()
        if tls is not None:
            self.authority.cert_pem.write_to_path(self.authority_file)
            certificate = place / "server.pem"
            self.authority.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
            self._options["certificate"] = str(certificate)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Comes (back) up, and returns once it listens."""
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kit.mail_receiver", json.dumps(self._options)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._heard()

    def stop(self) -> None:
        """Goes down; what it has received stays."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._process = None

    def will(self, *words: str, then: str = "accept") -> None:
        """The script from now on, and what happens to every message after it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"script": words, "then": then}).encode() + b"\n")
        self._process.stdin.flush()
        self._heard()

    def _heard(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"ready\n", self._errors.read_text(encoding="utf-8")

    @property
    def mails(self) -> list[Received]:
        """What it has taken so far, in order, the same message as often as it came."""
        whole = [line for line in self._mails.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
        return [_received(json.loads(line)) for line in whole]

    def times_by_id(self) -> Counter[str]:
        """How often each Message-ID was taken."""
        return Counter(mail.id for mail in self.mails)

    def await_mails(self, count: int) -> list[Received]:
        """What it has taken, once there are that many different messages."""
        eventually(lambda: len(self.times_by_id()) >= count, f"{count} mails have come")
        return self.mails


def _received(line: dict[str, Any]) -> Received:
    message = message_from_bytes(line["content"].encode("latin-1"), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return Received(tuple(line["recipients"]), line["sender"], line["is_encrypted"], line["user"], message)


# -- the other process


class _Handler:
    """aiosmtpd's hooks, by the script."""

    def __init__(self, mails: Path) -> None:
        self._mails = mails
        self.script: deque[str] = deque()
        self.then = "accept"
        self._word = ""

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """A message begins: the next word of the script is its fate."""
        self._word = self.script.popleft() if self.script else self.then
        if self._word.startswith("MAIL "):
            return self._word.removeprefix("MAIL ")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - as above
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Its recipient."""
        if self._word == "hang up":
            server.transport.abort()
        if self._word.startswith("RCPT "):
            return self._word.removeprefix("RCPT ")
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """Its content."""
        kind, _, more = self._word.partition(" ")
        if kind.isdigit():
            return self._word
        if kind == "stall":
            await asyncio.sleep(float(more))
        is_encrypted = server.transport.get_extra_info("ssl_object") is not None
        self._keep(session, envelope, is_encrypted=is_encrypted)
        if kind == "drop":
            server.transport.abort()
        return "250 Taken"

    def _keep(self, session: Session, envelope: Envelope, *, is_encrypted: bool) -> None:
        content = envelope.content
        assert isinstance(content, bytes)
        line = {
            "recipients": envelope.rcpt_tos,
            "sender": envelope.mail_from,
            "is_encrypted": is_encrypted,
            "user": session.auth_data,
            "content": content.decode("latin-1"),
        }
        with self._mails.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    user, password = data.login.decode(), data.password.decode()
    return AuthResult(success=(user, password) == (USER, PASSWORD), auth_data=user, handled=False)


async def _serve(options: dict[str, Any]) -> None:
    handler = _Handler(Path(options["mails"]))
    tls = None
    if options["tls"] is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options["certificate"])

    def session() -> SMTP:
        return SMTP(
            handler,
            tls_context=tls if options["tls"] == "starttls" else None,
            authenticator=_authenticate,
            auth_required=options["auth"],
            auth_require_tls=options["tls"] == "starttls",
            enable_SMTPUTF8=True,
            hostname="mail.test",
        )

    loop = asyncio.get_running_loop()
    implicit = tls if options["tls"] == "smtps" else None
    server = await loop.create_server(session, HOST, options["port"], ssl=implicit)
    async with server:
        print("ready", flush=True)  # noqa: T201 - how it speaks to the test
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            told = json.loads(line)
            handler.script, handler.then = deque(told["script"]), told["then"]
            print("ready", flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
