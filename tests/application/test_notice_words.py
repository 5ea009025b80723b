"""What notices say: each names its key, what happened, when and by whom, and what to do next."""

import re
import shlex

import pytest

from application.mail_layout import Links, as_html, as_text
from application.notice_words import SUSPENDED, words_of
from domain.notices import NoticeKind
from interfaces.cli.grammar import parse
from tests.kit.builders import key_id
from tests.kit.mails import a_notice

LINKS = Links("https://keys.example/keys/key_000000001", "https://keys.example/notifications/mute?token=t")


@pytest.mark.parametrize("kind", NoticeKind)
def test_both_parts_say_what_when_who_and_what_next(kind: NoticeKind) -> None:
    """The lead, every fact, the advice, the link, each command line, and the way to stop it: in text and in HTML."""
    words = words_of(a_notice(kind, actor="cli:root"))
    text, html = as_text(words, LINKS), as_html(words, LINKS)
    facts = dict(words.facts)
    assert "2026-03-01 12:00 UTC" in facts.values()
    assert facts["By"] == "the operator root at the command line"
    assert kind is NoticeKind.NOTICES_CHANGED or "“Production API” (sk_live_000000001)" in words.subject
    for said in (*facts, *facts.values(), words.lead, words.advice, *words.commands, LINKS.thing, str(LINKS.mute)):
        assert " ".join(said.split()) in " ".join(text.split())
        assert said in html.replace("&#x27;", "'")


@pytest.mark.parametrize("kind", NoticeKind)
def test_each_command_line_can_be_typed(kind: NoticeKind) -> None:
    """The command line's own grammar takes it as it is."""
    for line in words_of(a_notice(kind)).commands:
        program, *words = shlex.split(line)
        assert program == "keyledger"
        assert parse(words).run


@pytest.mark.parametrize("kind", NoticeKind)
def test_nothing_that_somebody_chose_is_on_a_command_line(kind: NoticeKind) -> None:
    """A name, a note and an actor with a shell's characters in them do not come near it."""
    bad = "$(reboot)`;|&"
    notice = a_notice(kind, name=bad, actor=f"cli:{bad}", details={"note": bad, "reason": bad, "days": bad})
    assert not re.search(r"[$`;|&()]", " ".join(words_of(notice).commands))


@pytest.mark.parametrize("kind", [NoticeKind.ROTATION_DUE, NoticeKind.ROTATION_REMINDER, NoticeKind.ATTACKED])
def test_a_key_of_a_suspended_account_is_not_said_to_work(kind: NoticeKind) -> None:
    """All its keys are refused; otherwise the owner is told that it goes on working."""
    assert " work" not in words_of(a_notice(kind, details={SUSPENDED: "True"})).lead
    assert " work" in words_of(a_notice(kind, details={})).lead


def test_a_retired_key_without_a_successor_is_not_said_to_be_replaced() -> None:
    """Where the successor was revoked, too, there is something to do."""
    words = words_of(a_notice(NoticeKind.RETIRED, details={}))
    assert "no key has taken its place" in words.lead
    assert "nothing to do" not in words.advice
    replaced = words_of(a_notice(NoticeKind.RETIRED, details={"successor_id": key_id(2)}))
    assert "nothing to do" in replaced.advice


def test_a_key_that_retires_soon_is_said_to_have_the_successor_that_it_has() -> None:
    """In use, not used yet, or revoked: then there is none to give to whatever uses the key."""
    in_use, unused, revoked = (
        words_of(a_notice(NoticeKind.RETIRING_SOON, details=details))
        for details in (
            {"successor_id": key_id(2), "successor_used": "True"},
            {"successor_id": key_id(2), "successor_used": "False"},
            {"successor_used": "False"},
        )
    )
    assert ("is in use" in in_use.lead, "give that the successor" in in_use.advice) == (True, True)
    assert ("not been used" in unused.lead, "give that the successor" in unused.advice) == (True, True)
    assert ("was revoked" in revoked.lead, "create another successor" in revoked.advice) == (True, True)
    assert [line.split()[2] for line in revoked.commands if " key " in line] == ["rotate", "extend"]


def test_a_mail_that_no_link_turns_off_has_none() -> None:
    """A security notice says nothing of one."""
    words = words_of(a_notice(NoticeKind.ATTACKED))
    links = Links(LINKS.thing, None)
    assert "mute" not in as_text(words, links) + as_html(words, links)
    assert "stop" not in as_text(words, links).lower()
