"""Mail handed over by SMTP (RFC 5321), one connection for each message, every wait bounded.

TLS: from the first byte with ``smtps``, else by STARTTLS whenever the server offers it. With a password, to anywhere
but this machine, TLS is demanded and the certificate must hold; without one an encrypted line to an unproven server
is still better than an open one (RFC 7435).
"""

import smtplib
import socket
import ssl
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from threading import Lock, Timer
from typing import Final

from application.mail import SAID_CHARACTERS_MAX, Mail, MailServer, Posted, Posting, Sender
from domain.mail_address import MailAddress
from domain.naming import shown
from infrastructure.mail_message import message_of

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 40.0
MESSAGE_SECONDS = 60.0
_OK, _CREATED, _READY = 250, 251, 220
_PERMANENT = frozenset(range(500, 600)) - {530, 534, 535, 538}  # these are about us, not the mail (RFC 4954 section 6)


class _NotTakenError(Exception):
    """The server's answer to one command was no."""

    def __init__(self, command: str, code: int, words: bytes, *, about_the_mail: bool = False) -> None:
        super().__init__(f"{command}: {code} {words.decode('utf-8', 'replace')}")
        # What a server says before it has seen the mail is about us: a wrong password is mended, and the mail is
        # wanted then.
        self.code: Final = code or None
        self.posting: Final = Posting.NEVER if about_the_mail and code in _PERMANENT else Posting.LATER


class SmtpPostOffice:
    """The port `PostOffice`. The times are those of one connection, one answer, and one whole message."""

    def __init__(  # noqa: PLR0913 - three bounds
        self,
        server: MailServer,
        sender: Sender,
        *,
        proven: ssl.SSLContext | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        message_seconds: float = MESSAGE_SECONDS,
    ) -> None:
        self._server = server
        self._sender = sender
        self._proven = ssl.create_default_context() if proven is None else proven
        self._unproven = ssl.create_default_context()
        self._unproven.check_hostname = False
        self._unproven.verify_mode = ssl.CERT_NONE
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._message_seconds = message_seconds
        self._under_way: set[socket.socket] = set()
        self._lock = Lock()

    def post(self, mail: Mail) -> Posted:
        """Hands the message over; what became of it."""
        try:
            content = message_of(mail, self._sender).as_bytes()
        except ValueError as error:
            return _posted(Posting.NEVER, f"this cannot be written as a mail: {error}")
        try:
            with self._connected() as client:
                words = self._hand_over(client, mail.to, content)
        except _NotTakenError as refusal:
            return _posted(refusal.posting, str(refusal), refusal.code)
        except smtplib.SMTPServerDisconnected:
            return _posted(Posting.LATER, "the server closed the connection, or took too long")
        except smtplib.SMTPResponseException as refusal:
            return _posted(Posting.LATER, f"{refusal.smtp_code} {refusal.smtp_error!r}", refusal.smtp_code)
        except (smtplib.SMTPException, OSError, UnicodeError) as error:  # the last for a host that cannot be one
            return _posted(Posting.LATER, f"{type(error).__name__}: {error}")
        return _posted(Posting.ACCEPTED, words, _OK)

    def interrupt(self) -> None:
        """Ends the connections of all threads."""
        with self._lock:
            for connection in self._under_way:
                _shut(connection)

    @contextmanager
    def _connected(self) -> Generator[smtplib.SMTP]:
        address = (self._server.host, self._server.port)
        with (
            closing(socket.create_connection(address, self._connect_seconds)) as plain,
            self._bounded(plain),
        ):
            plain.settimeout(self._answer_seconds)
            # Its name is the sender's domain: to find this machine's own, the library would ask DNS, unbounded.
            client = smtplib.SMTP(local_hostname=_host_name(self._sender), timeout=self._answer_seconds)
            client.sock = self._wrapped(plain) if self._server.is_encrypted else plain
            try:
                yield client
            finally:
                client.close()

    @contextmanager
    def _bounded(self, connection: socket.socket) -> Generator[None]:
        """After the time for a message, or told to, whoever waits for the connection sees its end.

        Also under TLS, and where the other side sends a byte at a time.
        """
        with closing(connection.dup()) as brake:
            timer = Timer(self._message_seconds, _shut, [brake])
            timer.daemon = True
            timer.start()
            with self._lock:
                self._under_way.add(brake)
            try:
                yield
            finally:
                with self._lock:
                    self._under_way.discard(brake)
                timer.cancel()
                timer.join()

    def _wrapped(self, plain: socket.socket) -> ssl.SSLSocket:
        context = self._proven if self._server.must_be_proven else self._unproven
        return context.wrap_socket(plain, server_hostname=self._server.host)

    def _hand_over(self, client: smtplib.SMTP, to: MailAddress, content: bytes) -> str:
        _expect("greeting", _READY, *client.getreply())
        self._say_hello(client)
        self._encrypt(client)
        self._log_in(client)
        options = [] if to.isascii() and self._sender.address.isascii() else ["SMTPUTF8"]
        if options and not client.has_extn("smtputf8"):
            raise _NotTakenError("RCPT", 553, b"the server takes ASCII addresses alone", about_the_mail=True)
        client.command_encoding = "utf-8" if options else "ascii"
        _expect("MAIL", _OK, *client.docmd("MAIL", " ".join([f"FROM:<{self._sender.address}>", *options])))
        code, words = client.docmd("RCPT", f"TO:<{to}>")
        if code not in {_OK, _CREATED}:
            raise _NotTakenError("RCPT", code, words, about_the_mail=True)
        try:
            code, words = client.data(content)
        except smtplib.SMTPDataError as refusal:
            error = refusal.smtp_error
            words = error if isinstance(error, bytes) else error.encode()
            raise _NotTakenError("DATA", refusal.smtp_code, words, about_the_mail=True) from refusal
        if code != _OK:
            raise _NotTakenError("DATA", code, words, about_the_mail=True)
        with suppress(smtplib.SMTPException, OSError):  # it is theirs by now, however they part
            client.quit()
        return f"{code} {words.decode('utf-8', 'replace')}"

    def _say_hello(self, client: smtplib.SMTP) -> None:
        code, words = client.ehlo()
        if code != _OK:
            code, words = client.helo()
        _expect("EHLO", _OK, code, words)

    def _encrypt(self, client: smtplib.SMTP) -> None:
        if self._server.is_encrypted:
            return
        if not client.has_extn("starttls"):
            if self._server.must_be_proven:
                raise _NotTakenError("STARTTLS", 0, b"not offered, and a password is not sent in the open")
            return
        _expect("STARTTLS", _READY, *client.docmd("STARTTLS"))
        # RFC 3207 section 4.2: whatever was said in the open, read ahead included, is forgotten.
        if client.sock is not None and client.file is not None:
            client.file.close()
            client.file = None
            client.sock = self._wrapped(client.sock)
        client.helo_resp = client.ehlo_resp = None
        client.esmtp_features = {}
        client.does_esmtp = False
        self._say_hello(client)

    def _log_in(self, client: smtplib.SMTP) -> None:
        if self._server.user is not None:
            client.login(self._server.user, self._server.password or "")


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # ended by itself a moment before
        connection.shutdown(socket.SHUT_RDWR)


def _expect(command: str, wanted: int, code: int, words: bytes) -> None:
    if code != wanted:
        raise _NotTakenError(command, code, words)


def _host_name(sender: Sender) -> str:
    return sender.address.domain if sender.address.domain.isascii() else "[127.0.0.1]"


def _posted(posting: Posting, said: str, code: int | None = None) -> Posted:
    return Posted(posting, shown(said, characters_max=SAID_CHARACTERS_MAX), code)
