"""Pages of a list on the command line, with the cursors of the HTTP API."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from domain.errors import InvalidError
from interfaces.cli.render import as_json, table
from interfaces.cli.terminal import say, write
from interfaces.http.paging import Page, Pager

LIMIT_MAX = 100
Item = TypeVar("Item")
Columns = dict[str, Callable[[Item], Any]]


def limit_of(arguments: Namespace) -> int:
    """How many at most; InvalidError outside 1 to 100."""
    limit: int = arguments.limit
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidError.of("limit", f"must be from 1 to {LIMIT_MAX}")
    return limit


def show_page(
    arguments: Namespace, items: Sequence[Item], *, pager: Pager, positions: Sequence[int], columns: Columns[Item]
) -> None:
    """Writes a page: ``items`` and their ``positions`` have one more than the limit where there is a next page."""
    limit = limit_of(arguments)
    page = Page(list(items[:limit]), pager.cursor(positions, limit=limit))
    if arguments.json:
        write(as_json(page))
        return
    write(table(list(columns), ([column(item) for column in columns.values()] for item in page.data)))
    if not page.data:
        say("nothing found")
    if page.next_cursor is not None:
        say(f"there is more: --cursor {page.next_cursor}")
