"""Names: what is kept, what is refused."""

import pytest

from domain.naming import MalformedNameError, Name


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
