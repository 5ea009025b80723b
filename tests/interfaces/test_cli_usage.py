"""`keyledger usage` and `keyledger logs`, as an operator meets them: the real command on a database with a past."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from interfaces.cli.exits import Exit
from interfaces.cli.usage import LATE, sparkline
from tests.kit.access_rows import PastRow, put_rows
from tests.kit.http_server import HttpServer, Key
from tests.kit.service import eventually

COMMAND = Path(sys.executable).with_name("keyledger")
SECONDS_MAX = 120
SECRET = "5ec7e7" * 10 + "cafe"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Operated:
    """A key with three requests and a failed attempt at noon, and the command on its database."""

    key: Key
    request_ids: list[str]
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end."""
        return subprocess.run(
            [COMMAND, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS_MAX,
            check=False,
        )

    def json(self, *words: str) -> Any:
        """The object that the command writes."""
        done = self.run(*words, "--json")
        assert done.returncode == Exit.OK, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def operated(server: HttpServer) -> Operated:
    key = server.back.key(server.back.account())
    rows = [PastRow(NOON + timedelta(minutes=n), key.id, key.account_id) for n in range(3)]
    rows.append(PastRow(NOON + timedelta(hours=1), key.id, None, status=401, endpoint="/x\x1b[31m", accepted=False))
    given = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    own = {"KEYLEDGER_DATABASE_URL": server.conninfo, "KEYLEDGER_SECRET_KEYS": SECRET, "KEYLEDGER_BCRYPT_COST": "10"}
    return Operated(key, put_rows(server.conninfo, rows), given | own)


def test_usage_shows_a_line_and_the_buckets_behind_it(operated: Operated) -> None:
    """A sparkline over all buckets, the sums, and the buckets with requests; with --json what the API answers."""
    bounds = ("--from", "2026-03-01T11:00:00Z", "--to", "2026-03-01T15:00:00Z")
    shown = operated.run("usage", operated.key.id, *bounds)
    assert shown.returncode == Exit.OK, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[:2] == ["requests  ▁█▁▁  3", "failed    ▁▁█▁  1"]
    assert [line.split()[:3] for line in lines[3:]] == [
        ["2026-03-01T12:00:00Z", "3", "0"],
        ["2026-03-01T13:00:00Z", "0", "1"],
    ]
    told = operated.json("usage", operated.key.id, *bounds, "--interval", "day")
    assert told["totals"] == {"requests": 3, "failed_attempts": 1}
    assert [each["start"] for each in told["data"]] == ["2026-03-01T00:00:00Z"]


def test_a_sparkline_shows_every_count_that_is_not_zero() -> None:
    """One request among thousands is higher than none; many buckets share bars, at most 96."""
    assert sparkline([0, 1, 5_000, 2_500]) == "▁▂█▅"
    assert sparkline([0, 0]) == "▁▁"
    assert len(sparkline([1] * 1_500)) <= 96


def test_logs_are_paged_and_filtered(operated: Operated) -> None:
    """Newest first, by account and by key, by status and path, and on with the cursor; nothing a terminal acts upon."""
    page = operated.json("logs", "--account", operated.key.account_id, "--limit", "3")
    more = operated.json("logs", "--account", operated.key.account_id, "--limit", "3", "--cursor", page["next_cursor"])
    ids = [row["request_id"] for row in page["data"] + more["data"]]
    assert ids == operated.request_ids[::-1]
    assert more["next_cursor"] is None
    shown = operated.run("logs", "--key", operated.key.id, "--status", "4xx", "--path", "/x*")
    assert re.findall(r"req_\S+", shown.stdout) == operated.request_ids[3:]
    assert "\x1b" not in shown.stdout


@pytest.fixture
def following(operated: Operated, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """`keyledger logs --follow` of the key, writing to a file."""
    out = tmp_path / "out"
    # Whoever started the tests in the background has had SIGINT ignored for all that come after.
    heard = ["env", "--default-signal=INT"]
    words = [*heard, str(COMMAND), "logs", "--key", operated.key.id, "--follow", "--json"]
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            words, env=operated.environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL
        )
    try:
        yield process, out
    finally:
        process.kill()
        process.wait()


def test_followed_rows_come_as_they_are_committed(
    server: HttpServer, operated: Operated, following: tuple["subprocess.Popen[bytes]", Path]
) -> None:
    """First those that are there, oldest first, then each new one, once; Ctrl-C ends it."""
    process, out = following

    expected = list(operated.request_ids)

    def is_shown() -> bool:
        return expected == [json.loads(line)["request_id"] for line in out.read_text(encoding="utf-8").splitlines()]

    eventually(is_shown, "the rows that are there are shown")
    with server.client(operated.key.secret) as client:
        for _ in range(3):
            expected += [client.get("/api/campaigns").request_id for _ in range(2)]
            eventually(is_shown, "the new rows are shown, once")
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS_MAX) == Exit.INTERRUPTED


def test_a_follower_that_was_paused_skips_nothing(
    server: HttpServer, operated: Operated, following: tuple["subprocess.Popen[bytes]", Path]
) -> None:
    """What was committed meanwhile is shown afterwards, also what is by then older than rows are looked for."""
    process, out = following

    def shown() -> int:
        return len(out.read_text(encoding="utf-8").splitlines())

    eventually(lambda: shown() == len(operated.request_ids), "the rows that are there are shown")
    process.send_signal(signal.SIGSTOP)
    late = datetime.now(UTC) - LATE + timedelta(seconds=0.5)
    [request_id] = put_rows(server.conninfo, [PastRow(late, operated.key.id, operated.key.account_id)])
    sleep(2.0)
    process.send_signal(signal.SIGCONT)
    eventually(lambda: shown() > len(operated.request_ids), "the row of the pause is shown")
    assert json.loads(out.read_text(encoding="utf-8").splitlines()[-1])["request_id"] == request_id


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("logs",), Exit.USAGE),
        (("logs", "--key", "key_000000000"), Exit.NOT_FOUND),
        (("usage", "key_000000000"), Exit.NOT_FOUND),
        (("logs", "--account", "{account}", "--status", "abc"), Exit.REFUSED),
        (("logs", "--account", "{account}", "--from", "yesterday"), Exit.REFUSED),
        (("logs", "--account", "{account}", "--follow", "--to", "2026-03-01T00:00:00Z"), Exit.REFUSED),
        (("usage", "{key}", "--from", "2026-03-01T00:00:00"), Exit.REFUSED),
        (("usage", "{key}", "--interval", "week"), Exit.USAGE),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(operated: Operated, words: tuple[str, ...], code: Exit) -> None:
    """By the code of its kind, with nothing on stdout."""
    given = [word.format(account=operated.key.account_id, key=operated.key.id) for word in words]
    done = operated.run(*given)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
