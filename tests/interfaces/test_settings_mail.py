"""The settings of mail: read as they are meant, and refused without a password in the words."""

from pathlib import Path

import pytest

from interfaces.settings import SettingError, Settings


def read(**values: str) -> Settings:
    """The settings of these alone."""
    return Settings.read({f"KEYLEDGER_{name.upper()}": value for name, value in values.items()})


@pytest.mark.parametrize(
    ("url", "host", "port", "encrypted", "user", "password"),
    [
        ("smtp://mail.acme.example", "mail.acme.example", 25, False, None, None),
        ("smtp://mail.acme.example:2525/", "mail.acme.example", 2525, False, None, None),
        ("smtp://me@mail.acme.example", "mail.acme.example", 587, False, "me", None),
        ("smtps://mail.acme.example", "mail.acme.example", 465, True, None, None),
        ("smtp://a%40b:p%40ss%3Aw%2Fd@10.0.0.1:587", "10.0.0.1", 587, False, "a@b", "p@ss:w/d"),
        ("smtps://[2001:db8::1]:4650", "2001:db8::1", 4650, True, None, None),
    ],
)
def test_a_mail_server_is_read(  # noqa: PLR0913, PLR0917 - one URL has so many parts
    url: str, host: str, port: int, encrypted: bool, user: str | None, password: str | None
) -> None:
    """Host, port (the usual one where none is given), TLS, user and password without their escapes."""
    server = read(smtp_url=url, mail_from="keys@acme.example").smtp
    assert server is not None
    assert (server.host, server.port, server.is_encrypted) == (host, port, encrypted)
    assert (server.user, server.password) == (user, password)


@pytest.mark.parametrize(
    "url",
    [
        "mail.acme.example:25", "http://mail.acme.example", "smtp://", "smtp://:25", "smtp://h:port", "smtp://h:0",
        "smtp://h:99999", "smtp://:hunter22@h", "smtp://me:hunter22@", "smtp://h/path", "smtp://h?tls=1", "smtp://h#x",
        "smtp://me:hunter22@[::1", "smtp://me:hunter22/@h:x",
    ],
)  # fmt: skip
def test_another_url_is_refused_without_its_password(url: str) -> None:
    """The error names the setting and what it takes."""
    with pytest.raises(SettingError, match="KEYLEDGER_SMTP_URL") as refused:
        read(smtp_url=url, mail_from="keys@acme.example")
    assert "hunter22" not in f"{refused.value}{refused.value.__cause__}"
    assert refused.value.__suppress_context__


def test_a_password_is_not_in_what_settings_print() -> None:
    """Nor when it comes from a file."""
    assert "hunter22" not in repr(read(smtp_url="smtp://me:hunter22@mail.acme.example", mail_from="keys@acme.example"))


def test_a_mail_server_may_be_named_in_a_file(tmp_path: Path) -> None:
    """As the database's URL."""
    (tmp_path / "smtp").write_text("smtps://me:hunter22@mail.acme.example\n")
    server = read(smtp_url_file=str(tmp_path / "smtp"), mail_from="keys@acme.example").smtp
    assert server is not None
    assert server.password == "hunter22"


def test_a_mail_server_needs_somebody_whom_mail_comes_from() -> None:
    """Without a server there is a default, for the mailbox."""
    with pytest.raises(SettingError, match="KEYLEDGER_MAIL_FROM"):
        read(smtp_url="smtp://mail.acme.example")
    assert read().mail_from.address == "keyledger@localhost"


@pytest.mark.parametrize(
    ("text", "name"),
    [("keys@acme.example", ""), ("Acme Keys <keys@acme.example>", "Acme Keys"), ('"Acme" <keys@acme.example>', "Acme")],
)
def test_a_sender_is_read(text: str, name: str) -> None:
    """An address, or a name and an address."""
    sender = read(mail_from=text).mail_from
    assert (sender.address, sender.name) == ("keys@acme.example", name)


@pytest.mark.parametrize(
    "text", ["keys", "Acme <keys@acme.example", "A\r\nB <keys@acme.example>", "a@b.example, c@d.example"]
)
def test_another_sender_is_refused(text: str) -> None:
    """It would be a header of its own."""
    with pytest.raises(SettingError, match="KEYLEDGER_MAIL_FROM"):
        read(mail_from=text)


@pytest.mark.parametrize("text", ["https://keys.acme.example", "http://127.0.0.1:8000/", "https://acme.example/keys/"])
def test_a_public_address_is_read(text: str) -> None:
    """Without the slash at its end."""
    assert read(public_url=text).public_url == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    ["keys.acme.example", "ftp://a.example", "https://", "https://a.example?x", "https://a.example/<b>", "https://a b"],
)
def test_another_public_address_is_refused(text: str) -> None:
    """It stands in headers and in HTML."""
    with pytest.raises(SettingError, match="KEYLEDGER_PUBLIC_URL"):
        read(public_url=text)
