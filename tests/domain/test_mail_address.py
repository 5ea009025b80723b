"""E-mail addresses: what is kept, what is refused."""

import pytest

from domain.mail_address import MailAddress


@pytest.mark.parametrize(
    "text",
    ["ops@acme.example", " ops@acme.example ", "o'neil+keys@a-b.example", "root@localhost", "büro@müller.example"],
)
def test_an_address_is_kept_trimmed(text: str) -> None:
    """Local part and domain, as people write them."""
    address = MailAddress.parse(text)
    assert address == text.strip()
    assert f"{address.local}@{address.domain}" == address


@pytest.mark.parametrize(
    "text",
    [
        "", "ops", "@acme.example", "ops@", "a@b@c", "a b@acme.example", "a\r\nBcc: x@acme.example", "<a@acme.example>",
        "a,b@acme.example", '"a b"@acme.example', "a..b@acme.example", ".a@acme.example", "a@acme..example",
        "a@-acme.example", "a@acme.example>", "a@acme.example> SIZE=1", "a@[127.0.0.1]", "a\u202e@acme.example",
        "a\u00a0b@acme.example", "a@acme.example\x00", f"{'a' * 65}@acme.example", f"a@{'b' * 64}.example",
        f"a@{'b.' * 130}example", "\ud800@acme.example",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """What could be more than one address, end an envelope, or deceive a reader; the message does not repeat it."""
    with pytest.raises(ValueError, match=r"^is not an e-mail address$"):
        MailAddress.parse(text)
