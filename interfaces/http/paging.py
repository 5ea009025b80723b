"""Lists: ``limit`` 1 to 100 (default 50), and an opaque ``cursor`` that holds the place and belongs to one listing."""

from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.di import NamedDependency
from litestar.params import QueryParameter, SkipValidation

from application.ports import Cursors
from domain.errors import MalformedError

Item = TypeVar("Item")
Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before.")]
GivenCursors = NamedDependency[SkipValidation[Cursors]]
"""A port is a protocol, which cannot be checked at run time; the composition root gives it."""
LIMIT_DEFAULT = 50
CURSOR_CHARACTERS_MAX = 512


class Page(msgspec.Struct, Generic[Item]):
    """One page of a list; ``next_cursor`` is null on the last.

    Routes answer with a plain class of these two fields: the name of this one, described, holds the item's module.
    """

    data: list[Item]
    next_cursor: str | None


class Pager:
    """Turns positions into cursors and back. ``listing`` names the list and its owner: a cursor fits no other."""

    def __init__(self, cursors: Cursors, *, listing: str) -> None:
        self._cursors = cursors
        self._listing = listing

    def position(self, cursor: str | None) -> int | None:
        """The position that a cursor stands for, None for the beginning; MalformedError for any other text."""
        if cursor is None:
            return None
        payload = self._cursors.open_cursor(cursor) if len(cursor) <= CURSOR_CHARACTERS_MAX else None
        listing, _, position = (payload or b"").decode().rpartition(" ")
        if listing != self._listing:
            raise MalformedError("The cursor does not belong to this list")
        return int(position)

    def cursor(self, positions: Sequence[int], *, limit: int) -> str | None:
        """The next page's cursor, given one position more than ``limit`` where there is a next page."""
        if len(positions) <= limit:
            return None
        return self._cursors.seal_cursor(f"{self._listing} {positions[limit - 1]}".encode())
