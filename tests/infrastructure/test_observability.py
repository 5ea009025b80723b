"""Nothing that this process logs holds a credential, whoever logs it and however it is wrapped."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infrastructure.observability import TRACEBACK_CHARACTERS_MAX, chain
from infrastructure.redaction import redact, redact_values

SHOWN = "sk_live_7Hq2mB9xT"
HIDDEN = "Z9yX8wV7uT6sR5qP4oN3mL2kJ1iH0gF9eD8cB7aZ6yX"
KEY = f"{SHOWN}_{HIDDEN}"
FORMATS: list[Literal["json", "console"]] = ["json", "console"]


def line(log_format: Literal["json", "console"] = "json", method: str = "info", **event: Any) -> str:
    """One event through the whole chain, as it would be written."""
    passed: Any = {"event": "something_happened"} | event
    for processor in chain(log_format=log_format, service="test"):
        passed = processor(None, method, passed)
    return str(passed)


@dataclass
class Holder:
    """A dataclass with a secret in a field: serialisers write those out unasked."""

    raw: bytes


class Rude:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError(KEY)


def failure(words: str) -> Exception:
    """An exception that was really raised, from a cause, out of a frame whose local holds the key."""
    local = f"only a local: {HIDDEN[::-1]}"
    try:
        try:
            int(f"{words}, not a number")
        except ValueError as cause:
            cause.add_note(words)
            raise RuntimeError(words, local[:4]) from cause
    except RuntimeError as error:
        return error


PLACES: list[dict[str, Any]] = [
    {"event": f"read {KEY}, and went on"},
    {"value": KEY},
    {"value": KEY.encode()},
    {"value": bytearray(KEY.encode())},
    {"value": [{"a": ({"b": KEY}, {KEY})}]},
    {"value": {KEY: 1}},
    {KEY: 1},
    {"value": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": KEY}}}}}}}}},
    {"value": Holder(KEY.encode())},
    {"value": ValueError(KEY)},
    {"value": Rude()},
    {"value": f"\ud800{KEY}"},
    {"value": f"line\n{KEY}\tend"},
    {"value": f"caf\u00e9{KEY}\u202e"},
    {"value": [(b"host", b"x"), (b"authorization", b"Bearer " + KEY.encode())]},
    {"exc_info": failure(KEY)},
    {"exc_info": ExceptionGroup(KEY, [failure(KEY)])},
]


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_no_place_in_an_event_lets_a_key_through(place: dict[str, Any], log_format: Literal["json", "console"]) -> None:
    """Message, name, value, nesting, bytes, objects, exceptions with causes, notes and groups: the secret is gone."""
    written = line(log_format, **place)
    assert HIDDEN not in written
    assert base64.b64encode(KEY.encode()).decode()[:40] not in written
    if log_format == "json":
        json.loads(written)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KEY, f"{SHOWN}…"),
        (f"{SHOWN}_", f"{SHOWN}…"),
        (f"{SHOWN}_Z9y", f"{SHOWN}…"),
        (f"{SHOWN}{HIDDEN}", f"{SHOWN}…"),
        (f"word{KEY}", f"word{SHOWN}…"),
        (f"/api/keys/{KEY}/usage?x=1", f"/api/keys/{SHOWN}…/usage?x=1"),
        (SHOWN, SHOWN),
        (f"{SHOWN}…", f"{SHOWN}…"),
        (f"sk_dev_7Hq2mB9xT_{HIDDEN} sk_staging_7Hq2mB9xT_{HIDDEN}", "sk_dev_7Hq2mB9xT… sk_staging_7Hq2mB9xT…"),
        (f"inv_7Hq2mB9xT_{HIDDEN}", "inv_7Hq2mB9xT…"),
        ("inv_7Hq2mB9xTabcdefg", "inv_7Hq2mB9xTabcdefg"),
        (f"ses_7Hq2mB9xT_{HIDDEN}", "ses_7Hq2mB9xT…"),
        (f"ses_{HIDDEN}", f"ses_{HIDDEN[:9]}…"),
        ("responses_per_second=3", "responses_per_second=3"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw+/=", "whsec_…"),
        ("/cb/whsec_MfKQ9r8G%2BKYqr%2fTwj%252BUPD8%25253d?x=1", "/cb/whsec_…?x=1"),
        (f"/x/{KEY}{KEY}/y", f"/x/{SHOWN}…/y"),
        (f"/x/%73k%5F{KEY[3:]}?a%20b", f"/x/{SHOWN}…?a%20b"),
        (f"/x/%2573k%255F{KEY[3:]}?a%20b", f"/x/{SHOWN}…?a%20b"),
        (f"{KEY}whsec_MfKQ9r8G+KYqrTwjUPD8/ILPZIo2", f"{SHOWN}……"),
        ("inv_abcdwhsec_MfKQ9r8G+KYqrTwjUPD8/ILPZIo2", "inv_abcdwhsec……"),
        (f"Authorization: Bearer {KEY}", f"Authorization: Bearer {SHOWN}…"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic …"),
        ("proxy-authorization: hunter2 and more", "proxy-authorization: …"),
        ("{'authorization': 'Bearer abc', 'host': 'x'}", "{'authorization': 'Bearer …', 'host': 'x'}"),
        ("[(b'authorization', b'Bearer abc')]", "[(b'authorization', b'Bearer …')]"),
        ("sent Bearer abcdefghijklmnopqrstuvwxyz", "sent Bearer …"),
        ('Bearer realm="keyledger"', 'Bearer realm="keyledger"'),
        ("Cookie: console=abc; theme=dark", "Cookie: …"),
        ("postgresql://kl:p@ss/w:rd@db:5432/kl", "postgresql://kl:…@db:5432/kl"),
        ("smtps://user%40example.org:hunter2@mail:465", "smtps://user%40example.org:…@mail:465"),
        ("https://example.org:8443/path", "https://example.org:8443/path"),
        ('host=db password=pa,ss;w"ord user=kl', "host=db password=… user=kl"),
        ("host=db password='it\\'s a secret' user=kl", "host=db password='…' user=kl"),
        ("host=db PASSWORD = hunter2", "host=db PASSWORD = …"),
        ("postgresql://db/kl?user=kl&password=hunter2", "postgresql://db/kl?user=kl&password=…"),
        ('{"password": "hunter2", "user": "kl"}', '{"password": "…", "user": "kl"}'),
        ("KEYLEDGER_SECRET_KEYS=abc,def", "KEYLEDGER_SECRET_KEYS=…"),
        (f"token={KEY}", f"token={SHOWN}…"),
        ("the password is wrong", "the password is wrong"),
    ],
)  # fmt: skip
def test_text_keeps_the_prefix_and_loses_the_secret(text: str, expected: str) -> None:
    """Each shape of a credential becomes what may be shown of it; what only resembles one stays; twice is once."""
    assert redact(text) == expected
    assert redact(expected) == expected


@settings(deadline=None)
@given(before=st.text(max_size=20), after=st.text(max_size=20), cut=st.integers(min_value=1, max_value=len(HIDDEN)))
def test_no_surroundings_bring_a_key_through(before: str, after: str, cut: int) -> None:
    """Whatever stands around a key, cut or whole, and in both formats: no four characters of its secret are left."""
    text = f"{before}{SHOWN}_{HIDDEN[:cut]}{after}"
    for log_format in FORMATS:
        written = line(log_format, event=text, nested={"x": [text]})
        assert HIDDEN[: max(cut, 4)] not in written
        assert f"{SHOWN}…" in written


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_value_gives_one_line_of_json(value: Any) -> None:
    """Logging never fails and never spans lines, whatever it is given."""
    written = line(value=value)
    assert "\n" not in written
    assert json.loads(written)["event"] == "something_happened"


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "cookie",
        "set-cookie",
        "cookies",
        "password",
        "smtp_password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "secret_key",
        "secret_keys",
        "private_key",
        "api_key",
        "token",
        "session_token",
    ],
)
def test_a_secret_s_name_hides_any_value(name: str) -> None:
    """What stands under such a name goes, whatever it looks like, at any depth; None stays, since it tells nothing."""
    for value in ("hunter2", 1234567, ["hunter2"], {"x": "hunter2"}, b"hunter2"):
        for event in ({name: value}, {"settings": {name: value}}, {"pair": [name, value]}):
            written = line(**event)
            assert "hunter2" not in written
            assert "1234567" not in written
    assert json.loads(line(**{name: None}))[name] is None


def test_a_header_s_name_in_bytes_hides_its_value() -> None:
    """ASGI's headers, whose bytes have been written out as Python does."""
    assert redact_values(["b'authorization'", "abc"]) == ["b'authorization'", "…"]
    assert redact_values(["b'host'", "abc"]) == ["b'host'", "abc"]


def test_tracebacks_have_no_locals() -> None:
    """A traceback shows frames, words, notes and causes, but never what a frame's variables held."""
    written = json.loads(line(exc_info=failure("words")))["exception"]
    assert "words, not a number" in written
    assert "The above exception was the direct cause" in written
    assert HIDDEN[::-1] not in written


def test_a_huge_traceback_is_cut_without_laying_a_secret_bare() -> None:
    """A long message is cut after it is redacted: where the cut would have split a key, no half of it is left."""
    words = f"{'x' * 50_000}{KEY} {'y' * (TRACEBACK_CHARACTERS_MAX // 2 - 20)}"
    written = json.loads(line(exc_info=ValueError(words)))["exception"]
    assert HIDDEN[-8:] not in written
    assert len(written) < TRACEBACK_CHARACTERS_MAX + 10


def test_untrusted_text_cannot_forge_a_line_or_drive_a_terminal() -> None:
    """Newlines, escape sequences and bidirectional marks come out escaped in the format for people."""
    written = line("console", event="a\nb", path="/x\n2026 info forged\x1b[31m\u202e", **{"k\n": 1})
    assert "\n" not in written
    assert written.isprintable()


RUN = """
import asyncio, gc, logging, sys, threading, warnings
import structlog
own = logging.getLogger("_granian")
own.addHandler(logging.StreamHandler(sys.stdout))
own.propagate = False
from infrastructure.observability import assert_redacting, bind, configure_logging, log_request, unbind
configure_logging(format=sys.argv[1], level="info", service="test")
assert_redacting()
KEY = sys.argv[2]
structlog.get_logger().info("from_structlog", key=KEY)
logging.getLogger("psycopg.pool").warning("from_stdlib %s", KEY)
own.info("from_granian %s", KEY)
logging.getLogger("broken").error("from_broken %d", KEY)
try:
    raise ValueError(KEY)
except ValueError:
    logging.getLogger("litestar").exception("from_stdlib_exception")
    structlog.get_logger().exception("from_structlog_exception")
warnings.warn(f"from_warning {KEY}")
tokens = bind(request_id="req_bound")
structlog.get_logger().info("while_bound")
logging.getLogger("psycopg").error("while_bound_too")
unbind(tokens)
structlog.get_logger().info("when_unbound")
structlog.get_logger().debug("too_quiet")
logging.getLogger("x").debug("too_quiet")
def fail():
    raise RuntimeError(f"from_thread {KEY}")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
class Dying:
    def __del__(self):
        raise RuntimeError(f"from_finaliser {KEY}")
Dying()
async def lost():
    raise RuntimeError(f"from_task {KEY}")
async def main():
    asyncio.ensure_future(lost())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
asyncio.run(main())
gc.collect()
log_request(method="GET", path=f"/api/{KEY}?q=" + KEY, route=None, status=404, duration_ms=1.23456, request_id="req_1",
            key_id=None, account_id=None, outcome="unknown_path", client_ip="127.0.0.1")
raise SystemError(f"from_main {KEY}")
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run that code in a process of its own, as its logging is the whole process's."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("log_format", FORMATS)
def test_every_way_out_of_a_process_passes_the_chain(log_format: str) -> None:
    """Both kinds of loggers, a server's own handlers, warnings, threads, finalisers, tasks and the last exception."""
    ended = run(RUN, log_format, KEY)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert HIDDEN not in ended.stderr
    for origin in (
        "structlog", "stdlib", "granian", "broken", "stdlib_exception", "structlog_exception", "warning", "thread",
        "finaliser", "task", "main",
    ):  # fmt: skip
        assert f"from_{origin}" in ended.stderr
    assert "too_quiet" not in ended.stderr


def test_lines_are_json_with_the_same_head() -> None:
    """In the format for machines each line of every origin is one JSON object that begins alike."""
    written = [json.loads(text) for text in run(RUN, "json", KEY).stderr.splitlines()]
    assert all(list(event)[:4] == ["timestamp", "level", "service", "event"] for event in written)
    assert {event["level"] for event in written} <= {"info", "warning", "error", "critical"}
    bound = {event["event"]: event.get("request_id") for event in written}
    assert (bound["while_bound"], bound["while_bound_too"], bound["when_unbound"]) == ("req_bound", "req_bound", None)


def test_the_canonical_line_has_its_fields_and_no_query() -> None:
    """One request is one `http_request` line with exactly these fields; the query and the secret are left out."""
    [event] = [e for t in run(RUN, "json", KEY).stderr.splitlines() if (e := json.loads(t))["event"] == "http_request"]
    assert event.pop("timestamp")
    assert event == {
        "level": "info",
        "service": "test",
        "event": "http_request",
        "method": "GET",
        "path": f"/api/{SHOWN}…",
        "route": None,
        "status": 404,
        "duration_ms": 1.235,
        "request_id": "req_1",
        "key_id": None,
        "account_id": None,
        "outcome": "unknown_path",
        "client_ip": "127.0.0.1",
    }


BROKEN = {
    "a pipe without a reader": "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 2)",
    "a pipe that is full": "reader, writer = os.pipe(); os.set_blocking(writer, False); os.dup2(writer, 2)",
    "a full disk": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    "a closed stream": "sys.stderr.close()",
    "no stream": "sys.stderr = None",
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that takes nothing")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_line_that_cannot_be_written_stops_nobody(broken: str) -> None:
    """Whoever logs goes on, whatever has become of stderr."""
    code = f"""
import logging, os, sys
import structlog
from infrastructure.observability import assert_redacting, configure_logging
sys.stderr = open(2, "w", buffering=1, closefd=False)  # whatever PYTHONUNBUFFERED says
{BROKEN[broken]}
configure_logging(format='json', level='info', service='test')
assert_redacting()
for _ in range(300):
    structlog.get_logger().info("said" * 100)
    logging.getLogger("x").info("said" * 100)
print("went on")
"""
    assert run(code).stdout == "went on\n"


def test_lines_are_written_again_when_they_can_be() -> None:
    """A line is lost alone, and each of the others has gone out when it is said."""
    code = """
import io, logging, os
import structlog
from infrastructure.observability import configure_logging
class Full(io.BytesIO):
    def write(self, data):
        if b"lost" in data:
            raise OSError(28, "No space left on device")
        return os.write(1, data)
stream = io.TextIOWrapper(Full(), write_through=False)
configure_logging(format="json", level="info", service="test", stream=stream)
structlog.get_logger().info("lost")
structlog.get_logger().info("kept")
logging.getLogger("x").warning("lost too")
logging.getLogger("x").warning("kept too")
os._exit(0)
"""
    assert [json.loads(text)["event"] for text in run(code).stdout.splitlines()] == ["kept", "kept too"]


REFUSALS = {
    "nothing configured": "",
    "structlog without the chain": "structlog.reset_defaults()",
    "a library's own handler": "logging.getLogger('x').addHandler(logging.StreamHandler())",
    "a second handler at the root": "logging.root.addHandler(logging.StreamHandler())",
    "no handler at the root": "logging.root.handlers.clear()",
}


@pytest.mark.parametrize("broken", REFUSALS)
def test_a_process_that_would_leak_refuses_to_start(broken: str) -> None:
    """Whichever way out is not redacted, `assert_redacting` raises and does not repeat the canary's secret."""
    setup = "configure_logging(format='json', level='info', service='test')" if REFUSALS[broken] else ""
    code = f"""
import logging
import structlog
from infrastructure.observability import NotRedactingError, assert_redacting, configure_logging
{setup}
{REFUSALS[broken]}
try:
    assert_redacting()
except NotRedactingError as error:
    print(error)
"""
    ended = run(code)
    assert ended.stdout.startswith(("a credential would reach", "the standard library's loggers"))
    assert "Redact1on" not in ended.stdout + ended.stderr
