"""A mail as bytes: the headers that it is to have and no other, whatever people call their keys."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from application.mail_layout import Links, as_html, as_text
from application.notice_words import words_of
from infrastructure.mail_message import message_of
from tests.kit.mails import SENDER, a_mail, a_notice

URL = "https://keys.example/notifications/mute?token=" + "aB3-_x" * 40
HEADERS = [
    "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "List-Id", "List-Unsubscribe",
    "List-Unsubscribe-Post", "MIME-Version", "Content-Type",
]  # fmt: skip
HOSTILE = [
    "x\r\nBcc: evil@example.org",
    "x\nBcc: evil@example.org\n\nbody",
    "=?utf-8?q?x=0D=0ABcc:_evil@example.org?=",
    "=?utf-8?b?eA0KQmNjOiBldmlsQGV4YW1wbGUub3Jn?=",
    "\x00\x1b[31m\x85\u2028Bcc: x",
    "\u202eevil\u2066",
    "<script>alert(1)</script>",
    '"><img src=//evil.example/x onerror=alert(1)>',
    "&lt;b&gt;",
    "x" * 10_000,
    "名" * 10_000,
    "מפתח ייצור",
    "\ud800",
    "sk_live_7Hq2mB9xT_" + "a" * 43,
    "",
]


def read(name: str) -> EmailMessage:
    """What a mail about a key of that name is read as."""
    words = words_of(a_notice(name=name, actor=f"cli:{name}"))
    links = Links("https://keys.example/keys/key_000000001", URL)
    mail = a_mail(subject=words.subject, text=as_text(words, links), html=as_html(words, links), mute_url=URL)
    message = message_from_bytes(message_of(mail, SENDER).as_bytes(), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def content(message: EmailMessage, kind: str) -> str:
    """One of its two parts."""
    part = message.get_body((kind,))
    assert part is not None
    return part.get_content()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_text_and_nothing_else(name: str) -> None:
    """No header more, no line more, no markup, no change of direction, no secret; and short enough."""
    message, plain = read(name), read("Production API")
    assert message.keys() == HEADERS
    assert message["List-Unsubscribe"] == f"<{URL}>"
    assert len(message["Subject"]) < 200
    text, html = content(message, "plain"), content(message, "html")
    assert len(text.splitlines()) == len(content(plain, "plain").splitlines())
    assert html.count("<") == content(plain, "html").count("<")
    assert not set("\x00\x1b\x85\u2028\u202e\u2066\ud800") & {*message["Subject"], *text, *html}
    assert "a" * 43 not in message["Subject"] + text + html


@given(st.text())
def test_any_name_gives_the_same_headers(name: str) -> None:
    """As above, for whatever text there is."""
    message = read(name)
    assert message.keys() == HEADERS
    assert message["Message-ID"] == "<notice.1@acme.example>"


def test_text_from_right_to_left_is_isolated() -> None:
    """It cannot rearrange what stands around it."""
    assert "“\u2068מפתח ייצור\u2069” (sk_live_000000001)" in read("מפתח ייצור")["Subject"]


def test_the_same_mail_is_the_same_bytes() -> None:
    """Each time it is sent."""
    assert message_of(a_mail(), SENDER).as_bytes() == message_of(a_mail(), SENDER).as_bytes()


def test_no_line_is_longer_than_a_relay_takes() -> None:
    """998 bytes without the line break (RFC 5322 section 2.1.1), also for a name without a space."""
    words = words_of(a_notice(name="x" * 10_000))
    long = a_mail(subject=words.subject, text=f"{'y' * 5_000}\n", html="z" * 5_000, mute_url=URL)
    assert max(map(len, message_of(long, SENDER).as_bytes().split(b"\r\n"))) <= 998


def test_one_click_is_offered_over_https_alone() -> None:
    """RFC 8058 asks for it; a link that opens a page is there either way."""
    message = message_of(a_mail(mute_url="http://127.0.0.1:8000/notifications/mute?token=t"), SENDER)
    assert message["List-Unsubscribe"] == "<http://127.0.0.1:8000/notifications/mute?token=t>"
    assert "List-Unsubscribe-Post" not in message
    assert "List-Unsubscribe" not in message_of(a_mail(), SENDER)
