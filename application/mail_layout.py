"""A notice's words laid out as a mail: a text part and an HTML part that say the same."""

import html
import textwrap
from dataclasses import dataclass

from application.notice_words import Words

LINE_CHARACTERS = 76
_LABEL_STYLE = "color:#57606a;padding:2px 16px 2px 0;text-align:left;vertical-align:top;font-weight:normal"
_CODE_STYLE = "background:#f6f8fa;padding:8px;overflow-x:auto"


@dataclass(frozen=True, slots=True)
class Links:
    """Where the mail leads. ``mute`` None: this kind is not turned off by a link."""

    thing: str
    mute: str | None


def as_text(words: Words, links: Links) -> str:
    """The text part."""
    width = max((len(label) for label, _ in words.facts), default=0) + 2
    blocks = [
        _wrapped(words.lead),
        "\n".join(f"{label + ':':<{width}}{value}" for label, value in words.facts),
        _wrapped(f"What to do next: {words.advice}"),
        links.thing,
        "\n".join(f"  {command}" for command in words.commands),
        "-- ",
        _wrapped(_why(links)),
        links.mute or "",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def as_html(words: Words, links: Links) -> str:
    """The HTML part: no script, nothing fetched from anywhere, every value escaped."""
    facts = "".join(
        f'<tr><th style="{_LABEL_STYLE}">{_escaped(label)}</th><td>{_escaped(value)}</td></tr>\n'
        for label, value in words.facts
    )
    commands = "".join(f'<pre style="{_CODE_STYLE}">{_escaped(command)}</pre>\n' for command in words.commands)
    mute = "" if links.mute is None else f' <a href="{_escaped(links.mute)}">Stop notices of this kind</a>'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{_escaped(words.subject)}</title></head>\n"
        '<body style="font-family:sans-serif;line-height:1.5;color:#1f2328;max-width:40em">\n'
        f"<p>{_escaped(words.lead)}</p>\n<table>\n{facts}</table>\n"
        f"<p><strong>What to do next:</strong> {_escaped(words.advice)}</p>\n"
        f'<p><a href="{_escaped(links.thing)}">{_escaped(links.thing)}</a></p>\n{commands}'
        f'<hr>\n<p style="color:#57606a">{_escaped(_why(links))}{mute}</p>\n</body>\n</html>\n'
    )


def _why(links: Links) -> str:
    why = "You receive this because notices of your Keyledger account go to this address."
    return why if links.mute is None else f"{why} To stop those of this kind:"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
