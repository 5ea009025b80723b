"""Mail handed over by SMTP: taken once where all goes well, told apart as later or never where not, in bounded time."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest

from application.mail import MailServer, Posting
from domain.mail_address import MailAddress
from infrastructure.smtp import SmtpPostOffice
from tests.kit.mail_receiver import PASSWORD, USER, MailReceiver
from tests.kit.mails import SENDER, a_mail
from tests.kit.service import HOST, eventually, free_port


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailReceiver]:
    with MailReceiver(tmp_path_factory.mktemp("mail")) as running:
        yield running


@pytest.fixture(scope="module")
def encrypting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailReceiver]:
    with MailReceiver(tmp_path_factory.mktemp("mail"), tls="starttls", auth=True) as running:
        yield running


def office(receiver: MailReceiver, *, host: str = HOST, user: str | None = None, **bounds: float) -> SmtpPostOffice:
    """An office that hands over to the receiver, whose authority it does not know."""
    return SmtpPostOffice(MailServer(host, receiver.port, is_encrypted=False, user=user), SENDER, **bounds)


def test_a_mail_arrives_whole_with_the_headers_of_an_automatic_message(receiver: MailReceiver) -> None:
    """Both parts, lines that begin with a dot among them, a Message-ID made of its id, and how to be rid of it."""
    posted = office(receiver).post(a_mail(number=1, mute_url="https://keys.example/notifications/mute?token=t"))
    assert posted.posting is Posting.ACCEPTED, posted.said
    [mail] = [mail for mail in receiver.mails if mail.id == "<notice.1@acme.example>"]
    assert (mail.sender, mail.recipients) == ("keyledger@acme.example", ("owner@example.com",))
    message = mail.message
    assert message["From"] == "Keyledger <keyledger@acme.example>"
    assert message["To"] == "owner@example.com"
    assert message["Date"] == "Sun, 01 Mar 2026 12:00:00 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Id"] == "<rotation-due.keyledger.acme.example>"
    assert message["List-Unsubscribe"] == "<https://keys.example/notifications/mute?token=t>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == a_mail().text
    assert html.get_content().replace("\r\n", "\n") == a_mail().html


def test_other_scripts_arrive(receiver: MailReceiver) -> None:
    """A subject, a body and an address beyond ASCII."""
    mail = a_mail(2, to=MailAddress("büro@müller.example"), subject="Schlüssel “名前”", text="Grüße\n")
    assert office(receiver).post(mail).posting is Posting.ACCEPTED
    [received] = [each for each in receiver.mails if each.id == "<notice.2@acme.example>"]
    assert received.recipients == ("büro@müller.example",)
    assert received.message["Subject"] == "Schlüssel “名前”"


@pytest.mark.parametrize(
    ("word", "posting"),
    [
        ("MAIL 451 4.3.0 busy", Posting.LATER),
        ("MAIL 530 5.7.0 log in first", Posting.LATER),
        ("MAIL 550 5.7.1 not from you", Posting.LATER),
        ("RCPT 450 4.2.1 greylisted", Posting.LATER),
        ("RCPT 530 5.7.0 log in first", Posting.LATER),
        ("RCPT 550 5.1.1 no such user", Posting.NEVER),
        ("451 4.3.2 try again", Posting.LATER),
        ("550 5.7.1 looks like spam", Posting.NEVER),
        ("hang up", Posting.LATER),
    ],
)
def test_a_refusal_is_for_good_only_where_it_is_about_the_mail(
    receiver: MailReceiver, word: str, posting: Posting
) -> None:
    """4yz, a broken connection and what the server holds against us: later. 5yz to address or content: never."""
    before = len(receiver.mails)
    receiver.will(word)
    posted = office(receiver).post(a_mail(3))
    assert posted.posting is posting, posted.said
    assert word.lstrip("MAILRCPT ").partition(" ")[0] in posted.said or word == "hang up"
    assert len(receiver.mails) == before
    assert office(receiver).post(a_mail(3)).posting is Posting.ACCEPTED


def test_a_mail_that_may_have_been_taken_is_posted_again_under_its_one_id(receiver: MailReceiver) -> None:
    """Taken, and the connection cut before the answer: later; the second time it has the same Message-ID."""
    receiver.will("drop")
    assert office(receiver).post(a_mail(4)).posting is Posting.LATER
    assert office(receiver).post(a_mail(4)).posting is Posting.ACCEPTED
    assert receiver.times_by_id()["<notice.4@acme.example>"] == 2


def test_a_server_that_says_nothing_is_left(receiver: MailReceiver) -> None:
    """An answer that does not come in its time: later. The receiver says nothing for longer than the test runs."""
    receiver.will("stall 600")
    posted = office(receiver, answer_seconds=0.3).post(a_mail(5))
    assert (posted.posting, posted.said) == (Posting.LATER, "the server closed the connection, or took too long")


def test_what_is_under_way_can_be_ended(receiver: MailReceiver) -> None:
    """The process stops: whoever waits for a server that says nothing is let go, as later."""
    receiver.will("stall 600")
    posts = office(receiver)
    found: list[Posting] = []
    waiting = Thread(target=lambda: found.append(posts.post(a_mail(12)).posting))
    waiting.start()

    def is_let_go() -> bool:
        posts.interrupt()  # again and again, as the outbox does: it may not have begun
        return not waiting.is_alive()

    eventually(is_let_go, "the post office lets go")
    assert found == [Posting.LATER]


@pytest.mark.parametrize("host", [HOST, "a..b", f"{'x' * 64}.example", "nobody.invalid"])
def test_nobody_there_is_later(host: str) -> None:
    """A port that nobody listens on, and names that are none: the setting can be mended."""
    posted = SmtpPostOffice(MailServer(host, free_port(), is_encrypted=False), SENDER).post(a_mail())
    assert posted.posting is Posting.LATER


@contextmanager
def dripping() -> Iterator[int]:
    """The port of a server whose greeting never ends: an answer of many lines, one at a time."""
    done = Event()
    with socket.create_server((HOST, 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not done.wait(0.05):
                    try:
                        connection.sendall(b"220-still\r\n")
                    except OSError:
                        return

        thread = Thread(target=drip)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            thread.join()


def test_a_server_that_never_ends_its_answer_is_left() -> None:
    """No single wait is long, and all of them together are bounded still."""
    with dripping() as port:
        began = monotonic()
        posted = SmtpPostOffice(MailServer(HOST, port, is_encrypted=False), SENDER, message_seconds=0.5).post(a_mail())
        assert posted.posting is Posting.LATER
        assert monotonic() - began < 30, "it would go on for ever"


# -- TLS and passwords


def proven(receiver: MailReceiver) -> ssl.SSLContext:
    """A context that knows the receiver's authority."""
    context = ssl.create_default_context()
    receiver.authority.configure_trust(context)
    return context


def remote(receiver: MailReceiver, password: str = PASSWORD) -> MailServer:
    """The receiver by a name that is not taken for loopback: what it resolves to is not asked."""
    return MailServer("127.1", receiver.port, is_encrypted=False, user=USER, password=password)


def test_a_password_goes_under_tls_to_a_proven_server(encrypting: MailReceiver) -> None:
    """STARTTLS, the certificate holds, the user is logged in; the password's own @, : and / do not matter."""
    server = MailServer("localhost", encrypting.port, is_encrypted=False, user=USER, password=PASSWORD)
    posted = SmtpPostOffice(server, SENDER, proven=proven(encrypting)).post(a_mail(6))
    assert posted.posting is Posting.ACCEPTED, posted.said
    [mail] = [each for each in encrypting.mails if each.id == "<notice.6@acme.example>"]
    assert (mail.is_encrypted, mail.user) == (True, USER)


def test_a_wrong_password_is_later_and_not_repeated(encrypting: MailReceiver) -> None:
    """The operator mends it, and the mail is still wanted; what is said of it does not hold the password."""
    server = MailServer("localhost", encrypting.port, is_encrypted=False, user=USER, password="wrong-1234")
    posted = SmtpPostOffice(server, SENDER, proven=proven(encrypting)).post(a_mail(7))
    assert posted.posting is Posting.LATER
    assert "535" in posted.said
    assert "wrong-1234" not in posted.said + repr(server)


def test_a_password_is_not_given_to_an_unproven_server(encrypting: MailReceiver) -> None:
    """A certificate of an authority that nobody knows: later, and no mail."""
    posted = SmtpPostOffice(remote(encrypting), SENDER).post(a_mail(8))
    assert posted.posting is Posting.LATER
    assert "certificate" in posted.said.lower()
    assert "<notice.8@acme.example>" not in encrypting.times_by_id()


def test_a_password_is_not_sent_in_the_open(receiver: MailReceiver) -> None:
    """A server elsewhere that does not offer TLS is told nothing."""
    posted = SmtpPostOffice(remote(receiver), SENDER).post(a_mail(9))
    assert posted.posting is Posting.LATER
    assert "STARTTLS" in posted.said


def test_tls_is_used_where_it_is_offered_also_without_proof(tmp_path: Path) -> None:
    """Without a password an unknown certificate is better than none."""
    with MailReceiver(tmp_path, tls="starttls") as relay:
        assert office(relay).post(a_mail(10)).posting is Posting.ACCEPTED
        assert relay.mails[0].is_encrypted


def test_smtps_speaks_tls_from_the_first_byte_and_proves_the_server(tmp_path: Path) -> None:
    """Accepted with the authority known, later without."""
    with MailReceiver(tmp_path, tls="smtps") as relay:
        server = MailServer("localhost", relay.port, is_encrypted=True)
        assert SmtpPostOffice(server, SENDER).post(a_mail(11)).posting is Posting.LATER
        assert SmtpPostOffice(server, SENDER, proven=proven(relay)).post(a_mail(11)).posting is Posting.ACCEPTED
        assert relay.mails[0].is_encrypted
