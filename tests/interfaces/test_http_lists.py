"""Lists: every item once, in pages of the size asked for, with cursors that fit their own list alone."""

from __future__ import annotations

from typing import Any

import pytest

from domain.credential import Environment
from tests.interfaces.conftest import Owner
from tests.kit.http_server import HttpServer

ITEMS = 5


@pytest.fixture(params=["keys", "campaigns", "events"])
def listing(request: pytest.FixtureRequest, server: HttpServer, owner: Owner) -> str:
    """The path of a list with five items."""
    if request.param == "keys":
        for number in range(ITEMS - 1):
            server.back.key(owner.key.account_id, name=f"Key {number}")
        return "/api/keys"
    if request.param == "campaigns":
        for number in range(ITEMS):
            add(owner, "/api/campaigns", number)
        return "/api/campaigns"
    events = f"{owner.key.path}/events"
    for number in range(ITEMS - 1):
        add(owner, events, number)
    return events


def add(owner: Owner, listing: str, number: int) -> None:
    """One more item."""
    if listing == "/api/campaigns":
        assert owner.client.post(listing, {"name": f"Campaign {number}"}).status == 201
    elif listing == "/api/keys":
        assert owner.client.post(listing, {"name": f"Key {number}", "environment": "dev"}).status == 201
    else:
        assert owner.client.patch(owner.key.path, {"name": f"Name {number}"}).status == 200


def names(items: list[Any]) -> list[Any]:
    """What tells the items of any list apart."""
    return [item.get("id", item.get("position")) for item in items]


@pytest.mark.parametrize("limit", [1, 2, ITEMS - 1, ITEMS, ITEMS + 1, 100])
def test_pages_together_are_the_list(owner: Owner, listing: str, limit: int) -> None:
    """Walking the pages gives each item once, in the list's order; only the last page is short, and says it is last."""
    pages = owner.client.pages(listing, limit=limit)
    whole = names(owner.client.get(listing).json["data"])
    assert len(set(whole)) == ITEMS
    assert [name for page in pages for name in names(page)] == whole
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-ITEMS // limit)


def test_items_that_come_while_paging_move_nothing(owner: Owner, listing: str) -> None:
    """An item added between two pages neither repeats nor hides one of those that were there."""
    whole = names(owner.client.get(listing).json["data"])
    first = owner.client.get(f"{listing}?limit=2").json
    add(owner, listing, 99)
    rest = owner.client.get(f"{listing}?cursor={first['next_cursor']}").json
    followed = names([*first["data"], *rest["data"]])
    assert followed[:ITEMS] == whole
    assert len(set(followed)) == len(followed)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "", "%ff", "99999999999999999999999"])
def test_a_page_size_has_bounds(owner: Owner, limit: str) -> None:
    """`limit` outside 1 to 100, or no whole number: 422 that names it, on every list."""
    for path in ("/api/keys", "/api/campaigns", f"{owner.key.path}/events"):
        assert owner.client.get(f"{path}?limit={limit}").fields == ["limit"]


def test_without_a_limit_a_page_holds_fifty(owner: Owner) -> None:
    """The default page has 50 items, also when there is one more."""
    for number in range(51):
        add(owner, "/api/campaigns", number)
    page = owner.client.get("/api/campaigns").json
    assert len(page["data"]) == 50
    assert len(owner.client.get(f"/api/campaigns?cursor={page['next_cursor']}").json["data"]) == 1


BAD_CURSORS = ["", "x", "%00", "%ff", "null", "0", "AAAA", "a" * 512, "a" * 513, "a" * 5000, "..%2f..", "%F0%9F%94%91"]


@pytest.mark.parametrize("cursor", BAD_CURSORS, ids=[cursor[:12] for cursor in BAD_CURSORS])
def test_a_made_up_cursor_is_refused(owner: Owner, cursor: str) -> None:
    """Any text that is not a cursor of this list: 400, on every list."""
    for path in ("/api/keys", "/api/campaigns", f"{owner.key.path}/events"):
        assert owner.client.get(f"{path}?cursor={cursor}").status == 400


def test_a_cursor_with_a_changed_character_is_refused(owner: Owner) -> None:
    """A cursor is sealed: changed anywhere, cut or lengthened, it is no cursor."""
    for number in range(3):
        add(owner, "/api/campaigns", number)
    cursor = owner.client.get("/api/campaigns?limit=1").json["next_cursor"]
    swapped = [
        cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :] for place in range(len(cursor))
    ]
    accepted = {
        owner.client.get(f"/api/campaigns?cursor={other}").status for other in [*swapped, cursor[:-1], f"{cursor}A"]
    }
    assert accepted == {400}


def test_a_cursor_fits_its_own_list_alone(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """A cursor of another list, filter, environment, key or account is a 400, not a place in this one."""
    for each in (owner, stranger):
        for number in range(2):
            add(each, "/api/campaigns", number)
            add(each, "/api/keys", number)
            add(each, f"{each.key.path}/events", number)

    def cursor(path: str) -> str:
        heard = owner.client.get(f"{path}{'&' if '?' in path else '?'}limit=1")
        return heard.json["next_cursor"]

    events = f"{owner.key.path}/events"
    dev = server.back.key(owner.key.account_id, environment=Environment.DEV)
    paths = ["/api/keys", "/api/keys?environment=dev", "/api/keys?status=active", "/api/campaigns", events]
    cursors = {path: cursor(path) for path in paths}
    for path in paths:
        for origin, text in cursors.items():
            heard = owner.client.get(f"{path}{'&' if '?' in path else '?'}cursor={text}")
            assert heard.status == (200 if origin == path else 400), (origin, path)
    for path in ("/api/keys", "/api/campaigns"):
        assert stranger.client.get(f"{path}?cursor={cursors[path]}").status == 400
    assert stranger.client.get(f"{stranger.key.path}/events?cursor={cursors[events]}").status == 400
    assert owner.client.get(f"/api/campaigns?cursor={cursors['/api/campaigns']}", key=dev.secret).status == 400
