"""Names and notes: what is kept, what is refused."""

from collections.abc import Callable

import pytest

from domain.naming import MalformedNameError, Name, Note


@pytest.mark.parametrize(
    "text",
    ["Production API", "  padded  ", "é", "名前", "x" * 100, "👩‍💻 laptop", "a\u00a0b", "\U0001fae8 new", "\U0001fad9"],
)
def test_printable_text_is_kept_trimmed(text: str) -> None:
    """What a person can read is a name, as they typed it but for the spaces around."""
    assert Name.parse(text) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "x" * 101,
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u202eb",
        "a\u2066b",
        "a\u200fb",
        "\ud800",
        "\u200b",
        "a\ue000b",
        "a\ufdd0b",
        "a\uffffb",
        "a\U0010fffeb",
    ],
)
def test_unreadable_or_misleading_text_is_refused(text: str) -> None:
    """Controls, direction changes, no characters, everybody's own, nothing to see, and too much are no names."""
    with pytest.raises(MalformedNameError):
        Name.parse(text)


HIDDEN = "0123456789ABCDEFGHIJKLMNOPQRSTUVabcdefghijk"


@pytest.mark.parametrize("parse", [Name.parse, Note.parse])
@pytest.mark.parametrize(
    "text",
    [
        f"sk_live_7Hq2mB9xT_{HIDDEN}",
        f"old one: sk_dev_7Hq2mB9xT_{HIDDEN[:16]}…",
        f"inv_7Hq2mB9xT_{HIDDEN}",
        f"ses_7Hq2mB9xT_{HIDDEN}",
        "for whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)
def test_a_name_or_note_holds_no_credential(text: str, parse: Callable[[str], str]) -> None:
    """Whole or most of it, with other words or without; the refusal repeats nothing of it."""
    with pytest.raises(MalformedNameError) as refused:
        parse(text)
    assert str(refused.value) == "must not hold a key or secret"


@pytest.mark.parametrize(
    "text",
    [
        "sk_live_7Hq2mB9xT",
        "was sk_live_7Hq2mB9xT…",
        "inv_7Hq2mB9xTabcdefg",
        "whsec_…",
        "ses_marketing_emails",
        "whsec_prod",
    ],
)
def test_a_name_may_hold_what_is_public(text: str) -> None:
    """Prefixes, as lists show them, ids, and what only begins like a credential."""
    assert Name.parse(text) == Note.parse(text) == text
