"""`keyledger mail`, as an operator meets it: mails that failed for good are found, and tried once more."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from application.mail import Mail, Posted, Posting
from application.notifications import NoticeCarrier
from infrastructure.outbox import Channel, OutboxDelivery, OutboxFollower
from infrastructure.postgres.accounts import PostgresAccounts
from infrastructure.postgres.notices import NoticeSource
from infrastructure.postgres.outbox import PostgresOutbox
from interfaces.cli.exits import Exit
from tests.kit.http_server import ROOT_SECRET, Back, HttpServer
from tests.kit.post_offices import ScriptedPostOffice

COMMAND = Path(sys.executable).with_name("keyledger")
SECONDS_MAX = 120


class Post:
    """The command on the server's database, and a post office that the background process would hand mails to."""

    def __init__(self, server: HttpServer) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        own = {"KEYLEDGER_DATABASE_URL": server.conninfo, "KEYLEDGER_SECRET_KEYS": ROOT_SECRET}
        self._environment = given | own
        self.office = ScriptedPostOffice(_refuses)
        self._core = server.back.core

    def mail(self, *words: str, code: Exit = Exit.OK) -> subprocess.CompletedProcess[str]:
        """Runs `keyledger mail` to its end, which must be that."""
        done = subprocess.run(
            [COMMAND, "mail", *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS_MAX,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def listed(self, *words: str) -> list[dict[str, Any]]:
        """The mails of one page."""
        return json.loads(self.mail("list", *words, "--json").stdout)["data"]

    def deliver(self) -> None:
        """Makes the mails of what has happened, and hands over what is due."""
        core = self._core
        carrier = NoticeCarrier(
            post_office=self.office, accounts=PostgresAccounts(core.database), seals=core.ring, public_url="http://x"
        )
        channel = Channel("email", NoticeSource(), carrier)
        while OutboxFollower(core.database, core.recorder, channel, core.clock).catch_up():
            pass
        OutboxDelivery(
            PostgresOutbox(core.database), channel, clock=core.clock, entropy=core.entropy, count=lambda *_: None
        ).deliver_due()


def _refuses(mail: Mail) -> Posted:
    return Posted(Posting.NEVER, f"no mailbox {mail.to}", 550)


def _takes(mail: Mail) -> Posted:
    del mail
    return Posted(Posting.ACCEPTED, "taken", 250)


@pytest.fixture
def post(server: HttpServer) -> Post:
    made = Post(server)
    made.office.answer = _takes
    made.deliver()  # whatever other tests have left
    made.office.answer = _refuses
    return made


@pytest.fixture
def back(server: HttpServer) -> Back:
    return server.back


def test_a_mail_that_failed_for_good_is_found_and_tried_again(post: Post, back: Back) -> None:
    """Listed with its address, code and words; after `retry` it is handed over under its id, and fails no more."""
    account = back.account()
    back.key(account)
    post.deliver()
    (mail,) = post.listed("--failed", "--account", account)
    assert (mail["account_id"], mail["kind"], mail["status"], mail["next_attempt_at"]) == (
        account, "key_created", "failed", None,
    )  # fmt: skip
    (attempt,) = mail["attempts"]
    assert (attempt["status"], attempt["error"]) == (550, f"no mailbox {mail['to']}")
    assert mail["to"] in post.mail("list", "--failed").stdout
    post.office.answer = _takes
    retried = json.loads(post.mail("retry", mail["id"], "--json").stdout)
    assert (retried["id"], retried["status"]) == (mail["id"], "pending")
    post.deliver()
    assert [each.id for each in post.office.mails][-2:] == [mail["id"]] * 2
    assert post.listed("--failed", "--account", account) == []
    (mail,) = post.listed("--account", account)
    assert (mail["status"], [each["status"] for each in mail["attempts"]]) == ("delivered", [550, 250])


def test_mails_come_in_pages_newest_first(post: Post, back: Back) -> None:
    """A cursor goes on where the page ended, and fits no other list."""
    account = back.account()
    for _ in range(3):
        back.key(account)
    post.deliver()
    whole = post.listed("--account", account)
    first = json.loads(post.mail("list", "--account", account, "--limit", "2", "--json").stdout)
    second = post.listed("--account", account, "--limit", "2", "--cursor", first["next_cursor"])
    assert [*first["data"], *second] == whole
    assert [each["created_at"] for each in whole] == sorted((each["created_at"] for each in whole), reverse=True)
    post.mail("list", "--failed", "--account", account, "--cursor", first["next_cursor"], code=Exit.REFUSED)


def test_what_is_no_mail_is_refused(post: Post, back: Back) -> None:
    """An unknown account, an id that is none, one that no mail has, and a webhook's delivery."""
    post.mail("list", "--account", "acc_0000000000000000", code=Exit.NOT_FOUND)
    post.mail("retry", "msg_", code=Exit.NOT_FOUND)
    post.mail("retry", "msg_0000000000000000000000", code=Exit.NOT_FOUND)
    with back.core.database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox.messages"
            " (id, channel, account_id, target, cause_position, kind, payload, created_at, next_at)"
            " VALUES ('msg_00000000000000000000wh', 'webhook', 'acc_0', 'whe_0', 0, 'key.created', '{}', now(), now())"
        )
    post.mail("retry", "msg_00000000000000000000wh", code=Exit.NOT_FOUND)
