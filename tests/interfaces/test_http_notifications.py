"""Notification preferences over HTTP, and the pages that mails lead to."""

import re
from base64 import b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest

from application.accounts import NoticeChange
from application.notice_links import mute_token
from domain.mail_address import MailAddress
from domain.notices import MUTABLE, ONE_CLICK, NoticeKind
from tests.interfaces.conftest import Owner
from tests.kit.http_server import HttpServer

PATH = "/api/notifications"
ADDRESS = "owner@example.com"
GONE = b'{"error":{"code":"NOT_FOUND","message":"This link is not valid any more"}}'


def test_preferences_are_read_and_changed(owner: Owner) -> None:
    """Everything is sent to the account's address at first; what is not named stays."""
    everything = {kind.value: True for kind in MUTABLE}
    assert owner.client.get(PATH).json == {"email": None, "sent_to": ADDRESS, "notices": everything}
    moved = owner.client.patch(PATH, {"email": "keys@acme.example", "notices": {"retired": False, "attacked": False}})
    assert moved.status == 200
    assert moved.json["sent_to"] == "keys@acme.example"
    again = owner.client.patch(PATH, {"notices": {"attacked": True}}).json
    assert again == {
        "email": "keys@acme.example",
        "sent_to": "keys@acme.example",
        "notices": everything | {"retired": False},
    }
    assert owner.client.patch(PATH, {"email": None}).json["sent_to"] == ADDRESS
    assert owner.client.get(PATH).json["notices"]["retired"] is False


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "a@acme.example> SIZE=1"}, "email"),
        ({"email": "a@b.example\r\nBcc: c@d.example"}, "email"),
        ({"email": ""}, "email"),
        ({"email": 7}, "email"),
        ({"notices": {"notices_changed": False}}, "notices"),
        ({"notices": {"sk_live_7Hq2mB9xT_" + "a" * 43: False}}, "notices"),
        ({"notices": {"retired": None}}, None),
        ({"muted": ["retired"]}, "muted"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(server: HttpServer, owner: Owner, body: Any, field: str | None) -> None:
    """422 that names the field; what cannot be turned off is no kind here."""
    head = server.head()
    heard = owner.client.patch(PATH, body)
    assert heard.status == 422
    assert field is None or heard.json["error"]["details"][0]["field"] == field
    assert b"a" * 43 not in heard.body
    assert server.head() == head


def link(server: HttpServer, owner: Owner, kind: NoticeKind = NoticeKind.RETIRED, address: str = ADDRESS) -> str:
    """The link of a mail about that kind to that address."""
    account_id = owner.key.account_id
    token = mute_token(server.back.core.ring, account_id=account_id, kind=kind, address=address)
    return f"/notifications/mute?token={token}"


def is_sent(owner: Owner, kind: NoticeKind = NoticeKind.RETIRED) -> bool:
    """Whether notices of that kind are sent."""
    return owner.client.get(PATH).json["notices"][kind.value]


def test_a_link_asks_before_it_acts(server: HttpServer, owner: Owner) -> None:
    """GET, as often as mail programs like, changes nothing; the page's own form does, without a key."""
    head = server.head()
    with server.client() as reader:
        for _ in range(3):
            page = reader.get(link(server, owner))
            assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
        assert re.findall(r"<form[^>]*>", page.body.decode()) == ['<form method="post">']
        assert server.head() == head
        assert is_sent(owner)
        headers = [("Content-Type", "application/x-www-form-urlencoded")]
        done = reader.call("POST", link(server, owner), body=b"List-Unsubscribe=One-Click", headers=headers)
        assert done.status == 200
        assert f"keyledger account notifications {owner.key.account_id} --unmute retired" in done.body.decode()
    assert not is_sent(owner)
    assert [kind for kind, sent in owner.client.get(PATH).json["notices"].items() if not sent] == ["retired"]


def test_pressed_again_it_changes_nothing(server: HttpServer, owner: Owner) -> None:
    """The second POST is answered like the first and records nothing; the page says that it is done."""
    with server.client() as reader:
        first = reader.call("POST", link(server, owner))
        head = server.head()
        assert reader.call("POST", link(server, owner)).body == first.body == reader.get(link(server, owner)).body
    assert server.head() == head


def test_a_link_holds_while_notices_go_to_its_address(server: HttpServer, owner: Owner) -> None:
    """The former reader cannot turn off what somebody else receives now."""
    former = link(server, owner)
    owner.client.patch(PATH, {"email": "keys@acme.example"})
    with server.client() as reader:
        for method in ("GET", "POST"):
            assert (reader.call(method, former).status, reader.call(method, former).body) == (404, GONE)
        assert reader.get(link(server, owner, address="keys@acme.example")).status == 200
    assert is_sent(owner)


def test_security_notices_have_no_link() -> None:
    """Nor has what tells of a change of notices."""
    assert {kind for kind in NoticeKind if kind not in ONE_CLICK} == {
        NoticeKind.ATTACKED, NoticeKind.COMPROMISED, NoticeKind.PRESENTED_AFTER_END, NoticeKind.NOTICES_CHANGED,
    }  # fmt: skip


def test_what_is_no_link_of_ours_is_a_404(server: HttpServer, owner: Owner, stranger: Owner) -> None:
    """Cut, changed, for a kind that has none, sealed for something else: the same bytes, and nothing changes."""
    ring, good = server.back.core.ring, link(server, owner).partition("=")[2]
    sealed = f"{owner.key.account_id} attacked {'0' * 16}".encode()
    bad = ["", "x", good[:-1], good + "A", good[::-1], ring.seal_link(sealed), ring.seal_cursor(sealed), "%00", "é"]
    nobody = ring.seal_link(f"acc_0000000000000000 retired {'0' * 16}".encode())
    head = server.head()
    with server.client() as reader:
        for token in (*bad, nobody):
            for method in ("GET", "POST"):
                heard = reader.call(method, f"/notifications/mute?token={quote(token)}")
                assert (heard.status, heard.body) == (404, GONE), token
        assert reader.get("/notifications/mute").status == 422
    assert server.head() == head
    assert is_sent(owner)
    assert is_sent(stranger)


def test_pages_are_kept_and_framed_by_nobody(server: HttpServer, owner: Owner) -> None:
    """Nothing loaded, no script, no cache, no referrer, no search engine."""
    with server.client() as reader:
        for path in (link(server, owner), f"/next/{owner.key.id}", f"/next/{owner.key.account_id}"):
            page = reader.get(path)
            assert page.status == 200
            assert page.header("cache-control") == "no-store"
            assert page.header("referrer-policy") == "no-referrer"
            policy = str(page.header("content-security-policy"))
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            text = page.body.decode()
            (style,) = re.findall(r"<style>(.*?)</style>", text)  # the one that the policy allows
            assert f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" in policy
            assert not re.search(r"<script|src=|style|https?://", text.replace(f"<style>{style}</style>", ""))
            assert not re.search(r"@import|url\(", style)


def test_the_page_of_a_thing_does_not_tell_whether_it_exists(server: HttpServer, owner: Owner) -> None:
    """A key that is there and one that never was have the same page; what is no id has none."""
    with server.client() as reader:
        real, never = reader.get(f"/next/{owner.key.id}"), reader.get("/next/key_zzzzzzzzz")
        assert real.body.replace(owner.key.id.encode(), b"key_zzzzzzzzz") == never.body
        assert b"keyledger key revoke key_zzzzzzzzz" in never.body
        assert reader.get("/next/whe_0000000000000000").status == 200
        for bad in ("x", "key_", "key_%3Cscript%3E", "cmp_0000000000000000"):
            assert reader.get(f"/next/{bad}").status == 404


def test_the_token_is_in_no_log(server: HttpServer, owner: Owner) -> None:
    """It lets whoever has it act."""
    path = link(server, owner)
    with server.client() as reader:
        reader.get(path)
        reader.call("POST", path)
    token = path.partition("=")[2]
    assert "/notifications/mute" in server.log.read_text(encoding="utf-8")
    assert token not in server.log.read_text(encoding="utf-8")


def test_an_operators_change_is_seen_at_once(server: HttpServer, owner: Owner) -> None:
    """The command line and the API show the same."""
    change = NoticeChange(email=MailAddress("ops@acme.example"), mute=frozenset({NoticeKind.EXPIRING}))
    server.back.manage.accounts.change_notices(account_id=owner.key.account_id, change=change, by=server.back.origin())
    assert owner.client.get(PATH).json["sent_to"] == "ops@acme.example"
    assert not is_sent(owner, NoticeKind.EXPIRING)
