"""Answers as text: aligned columns for people, and the JSON of the HTTP API for programs."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from interfaces.cli.terminal import plain

NOTHING = "-"
_GAP = "  "


def as_json(body: msgspec.Struct) -> str:
    """One line of JSON (RFC 8259)."""
    return msgspec.json.encode(body, enc_hook=_text_of).decode() + "\n"


def fields(body: msgspec.Struct) -> str:
    """One line a field: its name in the JSON, and its value."""
    rows = list(_flat(msgspec.to_builtins(body, builtin_types=(datetime,), enc_hook=_text_of), ""))
    return _aligned([(name, _cell(value)) for name, value in rows])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A line of headings and one a row; empty without rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    return _aligned([[title.upper() for title in header], *cells]) if cells else ""


def rfc3339(at: datetime) -> str:
    """The instant in UTC to the second, RFC 3339 section 5.6."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _cell(value: Any) -> str:
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case datetime():
            return rfc3339(value)
        case list() | tuple():
            return ", ".join(map(_cell, cast("Sequence[Any]", value)))
        case dict():
            return plain(msgspec.json.encode(value, enc_hook=_text_of).decode())
        case _:
            return plain(str(value))


def _flat(values: Mapping[str, Any], before: str) -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{before}{name}.")
        else:
            yield before + name, value


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = (
        _GAP.join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _width(text: str) -> int:
    """The columns that a terminal gives the text: wide characters take two (UAX #11), combining ones none."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each) for each in text)


def _text_of(value: Any) -> str:
    # msgspec takes str itself and none of its subclasses, which ids and names are.
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(type(value).__name__)
