"""The command line, as its operator and their scripts meet it: the real command on a real database."""

import errno
import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.credential import SCANNER_RULE
from domain.errors import KeyledgerError
from domain.ids import KeyId
from infrastructure.embedded_postgres import EmbeddedPostgres
from interfaces.cli.exits import EXIT_CODES, KINDS, Exit, explained
from interfaces.cli.grammar import grammar, parse
from interfaces.cli.main import command
from interfaces.cli.render import table
from interfaces.cli.terminal import plain
from tests.kit.clock_steps import SteppedClock

COMMAND = Path(sys.executable).with_name("keyledger")
SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Done:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object of stdout."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Keyledger:
    """The command with settings of its own."""

    settings: dict[str, str]

    def __call__(
        self, *words: str, stdout: int = subprocess.PIPE, started_by: tuple[str, ...] = (), **settings: str
    ) -> Done:
        """Runs it to its end; ``started_by``: a command that takes it as its arguments."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        done = subprocess.run(
            [*started_by, COMMAND, *words],
            env=inherited | self.settings | settings,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=SECONDS_MAX,
            check=False,
        )
        return Done(done.returncode, done.stdout or "", done.stderr)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def keyledger(data_dir: Path) -> Iterator[Keyledger]:
    """The command beside a running database of the same data directory, which it made and migrated itself."""
    run = Keyledger({"KEYLEDGER_DATA_DIR": str(data_dir), "KEYLEDGER_DEMO": "0", "KEYLEDGER_BCRYPT_COST": "10"})
    made = run("migrate", "--json")
    assert made.code == Exit.OK, made.err
    assert made.json["applied"][0] == "0001_ledger.sql"
    with EmbeddedPostgres(data_dir, say=lambda _: None):
        yield run


@pytest.fixture(scope="module")
def account(keyledger: Keyledger) -> str:
    done = keyledger("account", "create", "--name", "Acme", "--email", "ops@example.com", "--plan", "team")
    assert done.code == Exit.OK, done.err
    return done.out.strip()


@pytest.fixture
def key_id(keyledger: Keyledger, account: str) -> str:
    """A fresh key."""
    return str(_created(keyledger, account).json["id"])


def _created(keyledger: Keyledger, account: str, *more: str) -> Done:
    done = keyledger("key", "create", "--account", account, "--name", "Büro", "--environment", "live", "--json", *more)
    assert done.code == Exit.OK, done.err
    return done


def test_the_command_starts_the_database_for_the_call_and_stops_it_after(tmp_path: Path) -> None:
    """With nothing running, a call makes the data directory, the schema and the account, and leaves no server."""
    run = Keyledger({"KEYLEDGER_DATA_DIR": str(tmp_path / "new" / "data")})
    opened = run("account", "create", "--name", "First", "--email", "a@example.com")
    assert opened.code == Exit.OK, opened.err
    assert not (tmp_path / "new" / "data" / "postgres" / "postmaster.pid").exists()
    assert opened.out.strip() in run("account", "list").out


def test_an_account_is_listed_as_it_was_opened(keyledger: Keyledger, account: str) -> None:
    """The id on stdout is the account's, and the list has its name, address and plan."""
    listed = {each["id"]: each for each in keyledger("account", "list", "--json").json["data"]}
    assert listed[account]["name"] == "Acme"
    assert listed[account]["email"] == "ops@example.com"
    assert listed[account]["plan"] == "team"


def test_a_suspended_account_says_so_until_it_is_reinstated(keyledger: Keyledger, account: str) -> None:
    """Each change answers with the account and the receipt of the change."""
    suspended = keyledger("account", "suspend", account, "--json").json
    assert suspended["suspended"] is True
    assert suspended["receipt"]["position"] >= 1
    assert keyledger("account", "reinstate", account, "--json").json["suspended"] is False


def test_a_new_key_stands_alone_on_stdout_and_never_on_stderr(keyledger: Keyledger, account: str) -> None:
    """`$(keyledger key create …)` is the key and nothing else; the talk holds no secret."""
    done = keyledger("key", "create", "--account", account, "--name", "CI", "--environment", "dev")
    assert done.code == Exit.OK, done.err
    assert re.fullmatch(SCANNER_RULE, done.out.removesuffix("\n"))
    assert not re.search(SCANNER_RULE, done.err)
    assert done.err.startswith("keyledger: ")


def test_the_json_of_a_new_key_is_the_apis_with_the_secret_once(keyledger: Keyledger, account: str) -> None:
    """The object has the contract's fields, and the secret part occurs once on stdout and not on stderr."""
    done = _created(keyledger, account, "--scope", "campaigns:read", "--allow-ip", "10.0.0.0/8")
    key = done.json
    assert set(key) == {
        "id", "name", "environment", "prefix", "key", "status", "scopes", "allowed_ips", "created_at", "expires_at",
        "last_used_at", "request_count", "failed_attempts", "rotation_due_at", "rotation_due_days", "revoked_at",
        "lineage_id", "replaces",
        "replaced_by", "retires_at",
    }  # fmt: skip
    assert (key["name"], key["scopes"], key["allowed_ips"]) == ("Büro", ["campaigns:read"], ["10.0.0.0/8"])
    secret = key["key"].removeprefix(key["prefix"])
    assert (done.out.count(secret), done.err.count(secret)) == (1, 0)


def test_a_listing_pages_through_all_keys_without_a_secret(keyledger: Keyledger, account: str) -> None:
    """Pages of one, followed by their cursors, give each key once, newest first; no page holds a secret."""
    made = [_created(keyledger, account, "--expires-at", f"203{year}-01-01T00:00:00+02:00").json for year in range(2)]
    first = keyledger("key", "list", "--account", account, "--json", "--limit", "1")
    second = keyledger(
        "key", "list", "--account", account, "--json", "--limit", "1", "--cursor", first.json["next_cursor"]
    )
    assert [page.json["data"][0]["id"] for page in (first, second)] == [made[1]["id"], made[0]["id"]]
    assert second.json["data"][0]["expires_at"] == "2029-12-31T22:00:00Z"
    people = keyledger("key", "list", "--account", account, "--environment", "live", "--status", "active")
    assert made[0]["prefix"] in people.out
    assert not re.search(SCANNER_RULE, first.out + second.out + people.out + people.err)


def test_a_rotation_names_both_keys_and_hands_out_the_new_one(keyledger: Keyledger, key_id: str) -> None:
    """The successor's secret is on stdout alone; the predecessor is rotating, and the history says by whom."""
    rotated = keyledger("key", "rotate", key_id, "--grace-seconds", "3600")
    assert rotated.code == Exit.OK, rotated.err
    assert re.fullmatch(SCANNER_RULE, rotated.out.removesuffix("\n"))
    assert not re.search(SCANNER_RULE, rotated.err)
    old = keyledger("key", "show", key_id, "--json").json
    assert old["status"] == "rotating"
    assert old["replaced_by"].removeprefix(KeyId.PREFIX) in rotated.out
    events = keyledger("key", "history", key_id, "--json").json["data"]
    assert [event["type"] for event in events] == ["key.created", "key.rotated"]
    assert all(event["actor"].startswith("cli:") for event in events)
    assert len({event["data"]["request_id"] for event in events}) == 2


def test_a_revocation_answers_with_its_receipt_and_again_with_the_same(keyledger: Keyledger, key_id: str) -> None:
    """The receipt holds the ledger position; a second revoke changes nothing and says the same."""
    assert keyledger("key", "revoke", key_id, "--note", "in a\x1b[31m log").code == Exit.REFUSED
    first = keyledger("key", "revoke", key_id, "--reason", "compromised", "--note", "in a log", "--json").json
    assert first["status"] == "revoked"
    assert set(first["receipt"]) == {"position", "processes", "waited_ms"}
    again = keyledger("key", "revoke", key_id)
    assert re.search(rf"^receipt\.position +{first['receipt']['position']}$", again.out, re.MULTILINE)
    history = keyledger("key", "history", key_id)
    assert history.out.count("key.revoked") == 1
    assert keyledger("key", "rotate", key_id).code == Exit.REFUSED


def test_rebuilt_views_show_the_same_keys(keyledger: Keyledger, account: str, key_id: str) -> None:
    """`projections rebuild` answers the number of events, and the listing after it is the one before."""
    before = keyledger("key", "list", "--account", account, "--json").out
    assert key_id in before
    rebuilt = keyledger("projections", "rebuild", "--json")
    assert rebuilt.json["events"] >= 2
    assert keyledger("key", "list", "--account", account, "--json").out == before


def test_a_job_runs_by_hand(keyledger: Keyledger) -> None:
    """Every job that is listed can be run, and answers how much it did; another name is refused with the list."""
    names = [job["name"] for job in keyledger("jobs", "list", "--json").json["data"]]
    assert {"retention", "settlement", "partitions"} <= set(names)
    assert keyledger("jobs", "list").out.splitlines()[1].startswith(names[0])
    assert keyledger("jobs", "run", "retention", "--json").json == {"name": "retention", "done": 0}
    assert keyledger("jobs", "run", "partitions").out == "0\n"
    last = {job["name"]: job["last_run"] for job in keyledger("jobs", "list", "--json").json["data"]}
    assert (last["retention"]["outcome"], last["retention"]["by_hand"], last["retention"]["done"]) == ("done", True, 0)
    assert last["retirement"] is None
    done = keyledger("jobs", "run", "everything")
    _assert_refused(done, Exit.REFUSED)
    assert done.err.startswith("keyledger: NAME: must be one of: ")
    assert all(name in done.err for name in names)


def test_deadlines_are_judged_by_the_databases_clock_on_a_machine_whose_own_is_ahead(
    keyledger: Keyledger, account: str, key_id: str, tmp_path: Path
) -> None:
    """A key in its day of grace is not retired by a run two days ahead, nor is anything dated there."""
    assert keyledger("key", "rotate", key_id, "--grace-seconds", "86400").code == Exit.OK
    ahead = SteppedClock(tmp_path)
    if not ahead.is_available:
        pytest.skip("there is no C compiler to make a clock with")
    ahead.step(2 * 86400)
    with ahead.for_children():
        assert keyledger("jobs", "run", "retirement").out == "0\n"
        created = _created(keyledger, account).json["created_at"]
    assert keyledger("key", "show", key_id, "--json").json["status"] == "rotating"
    assert datetime.fromisoformat(created) < datetime.now(UTC) + timedelta(days=1)


def test_what_is_typed_without_an_option_is_called_as_the_help_has_it(keyledger: Keyledger, account: str) -> None:
    """`hand-over` has no `--endpoint`."""
    done = keyledger("account", "hand-over", account, "whe_nope")
    _assert_refused(done, Exit.REFUSED)
    assert done.err.startswith("keyledger: ENDPOINT: ")
    assert "ENDPOINT" in keyledger("account", "hand-over", "--help").out


def test_a_setting_that_takes_a_list_says_of_what(keyledger: Keyledger) -> None:
    """The environments' names, not those of our classes."""
    done = keyledger("account", "list", KEYLEDGER_ENVIRONMENTS="live,prod")
    _assert_refused(done, Exit.USAGE)
    assert done.err == "keyledger: KEYLEDGER_ENVIRONMENTS: 'prod' is none of live, staging, dev\n"


def test_a_run_by_hand_leaves_the_leaders_next_one_in_the_list(keyledger: Keyledger) -> None:
    """In the middle of the hour, for a job that runs hourly."""
    assert keyledger("jobs", "run", "retention").code == Exit.OK
    before = datetime.now(UTC)
    (next_at,) = (
        datetime.fromisoformat(job["next_at"])
        for job in keyledger("jobs", "list", "--json").json["data"]
        if job["name"] == "retention"
    )
    assert before < next_at <= datetime.now(UTC) + timedelta(hours=1)
    assert (next_at.minute, next_at.second, next_at.microsecond) == (30, 0, 0)


@pytest.mark.parametrize(
    "words",
    [
        ("key", "show", "key_000000000"),
        ("key", "revoke", "not an id"),
        ("account", "suspend", "acc_0000000000000000"),
    ],
)
def test_an_unknown_id_is_exit_code_4(keyledger: Keyledger, words: tuple[str, ...]) -> None:
    """What is not there is told in one line, by its own code."""
    _assert_refused(keyledger(*words), Exit.NOT_FOUND)


def test_a_refused_value_is_exit_code_3_and_changes_nothing(keyledger: Keyledger, account: str) -> None:
    """The line names the option as it was typed; no key was made."""
    refused = [
        ("--allow-ip", "10.0.0.1/8"),
        ("--scope", "everything:write"),
        ("--expires-at", "2020-01-01T00:00:00Z"),
        ("--expires-at", "9999-12-31T23:59:59-14:00"),
        ("--name", "a\nb"),
    ]
    before = keyledger("key", "list", "--account", account, "--json").out
    for option, value in refused:
        done = keyledger("key", "create", "--account", account, "--name", "x", "--environment", "live", option, value)
        _assert_refused(done, Exit.REFUSED)
        assert done.err.startswith(f"keyledger: {option}: ")
    assert keyledger("key", "list", "--account", account, "--json").out == before


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("key",),
        ("key", "forget", "key_000000000"),
        ("key", "create", "--account", "acc_0000000000000000"),
        ("key", "list", "--acc", "acc_0000000000000000"),
        ("account", "create", "--name", "x", "--email", "x@example.com", "--plan", "gold"),
        ("key", "rotate", "key_000000000", "--grace-seconds", "soon"),
        ("key", "show", os.fsdecode(b"\xff")),
    ],
)
def test_a_line_that_cannot_be_read_is_exit_code_2(keyledger: Keyledger, words: tuple[str, ...]) -> None:
    """Usage is told in one line that points at the help."""
    done = keyledger(*words)
    _assert_refused(done, Exit.USAGE)
    assert "--help)" in done.err


def test_a_credential_typed_in_the_wrong_place_is_not_repeated(keyledger: Keyledger) -> None:
    """Neither a misplaced argument nor an id that is a whole key comes back in the message."""
    credential = "sk_live_" + "a" * 9 + "_" + "b" * 43
    for words in (("key", "show", "x", credential), ("key", credential), ("key", "show", credential)):
        assert "bbbb" not in keyledger(*words).err


@pytest.mark.parametrize("option", ["--scope", "--allow-ip"])
def test_a_credential_typed_as_a_value_is_not_repeated(keyledger: Keyledger, account: str, option: str) -> None:
    """What is refused is quoted up to 50 characters, which of a key would be its whole secret."""
    credential = "sk_live_" + "a" * 9 + "_" + "b" * 43
    create = ("key", "create", "--account", account, "--name", "x", "--environment", "live")
    done = keyledger(*create, option, credential)
    _assert_refused(done, Exit.REFUSED)
    assert done.err.startswith(f"keyledger: {option}: ")
    assert "bbbb" not in done.err + done.out


def test_an_account_is_not_called_by_a_credential(keyledger: Keyledger) -> None:
    """It is refused, and not repeated."""
    credential = "sk_live_" + "a" * 9 + "_" + "b" * 43
    done = keyledger("account", "create", "--name", credential, "--email", "x@example.com")
    assert "must not hold a key or secret" in done.err
    assert "bbbb" not in done.err + done.out


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("KEYLEDGER_DATABASE_URL", "postgresql://keyledger:hunter2@127.0.0.1:1/keyledger", Exit.UNAVAILABLE),
        ("KEYLEDGER_DATABASE_URL", "postgresl://keyledger:hunter2@127.0.0.1/keyledger", Exit.USAGE),
        ("KEYLEDGER_PORT", "many", Exit.USAGE),
        ("KEYLEDGER_DATA_DIR", "/dev/null/hunter2", Exit.USAGE),
    ],
)
def test_what_keeps_the_database_away_is_one_line_without_the_password(
    keyledger: Keyledger, setting: str, value: str, code: Exit
) -> None:
    """An unreachable database is exit code 5, a setting that cannot be meant 2."""
    done = keyledger("account", "list", **{setting: value})
    _assert_refused(done, code)
    assert ":hunter2@" not in done.err


@pytest.mark.parametrize("setting", ["KEYLEDGER_DATABASE_URL", "KEYLEDGER_SECRET_KEYS", "KEYLEDGER_SMTP_URL"])
def test_a_file_that_is_not_text_is_told_by_its_setting(keyledger: Keyledger, tmp_path: Path, setting: str) -> None:
    """Nothing of what is in it is shown."""
    file = tmp_path / "file"
    file.write_bytes(b"hunter2\xff\xfe")
    done = keyledger("account", "list", **{f"{setting}_FILE": str(file)})
    _assert_refused(done, Exit.USAGE)
    assert done.err == f"keyledger: {setting}_FILE: {file} is not text (UTF-8)\n"


@pytest.mark.parametrize("setting", ["KEYLEDGER_DATABASE_URL", "KEYLEDGER_SECRET_KEYS", "KEYLEDGER_SMTP_URL"])
@pytest.mark.parametrize("content", ["", " \n"])
def test_a_file_that_is_empty_refuses_the_start(
    keyledger: Keyledger, tmp_path: Path, setting: str, content: str
) -> None:
    """A secret that is not mounted yet is not one that is left out: no database or secret is made in its place."""
    file = tmp_path / "file"
    file.write_text(content)
    done = keyledger("account", "list", **{f"{setting}_FILE": str(file)})
    _assert_refused(done, Exit.USAGE)
    assert done.err == f"keyledger: {setting}_FILE: {file} is empty\n"


def test_a_reader_that_goes_away_ends_the_command_without_a_word(keyledger: Keyledger, account: str) -> None:
    """`keyledger key list | head` is no error of anybody's: the code of an end by SIGPIPE, and nothing said."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = keyledger("key", "list", "--account", account, "--json", stdout=writer)
    finally:
        os.close(writer)
    assert (done.code, done.err) == (Exit.READER_GONE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that takes nothing")
def test_a_secret_that_could_not_be_written_is_told(keyledger: Keyledger, account: str) -> None:
    """A key whose secret nobody has seen is named, so that it can be rotated or revoked."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = keyledger("key", "create", "--account", account, "--name", "x", "--environment", "dev", stdout=full)
    finally:
        os.close(full)
    assert done.code == Exit.UNEXPECTED
    named = re.search(r"key_[0-9A-Za-z]{9}", done.err)
    assert named is not None
    assert keyledger("key", "show", named[0]).code == Exit.OK


def test_a_secret_that_had_nowhere_to_be_written_is_told(keyledger: Keyledger, account: str) -> None:
    """As that which could not be written, when stdout was closed before the start."""
    closed = ("sh", "-c", 'exec "$0" "$@" >&-')
    create = ("key", "create", "--account", account, "--name", "x", "--environment", "dev")
    done = keyledger(*create, started_by=closed)
    assert done.code == Exit.UNEXPECTED
    assert os.strerror(errno.EBADF) in done.err
    named = re.search(r"(key_[0-9A-Za-z]{9}) was created, but its key could not be written", done.err)
    assert named is not None
    assert keyledger("key", "show", named[1]).code == Exit.OK


def test_what_the_outputs_encoding_does_not_have_is_escaped(keyledger: Keyledger, key_id: str) -> None:
    """A name, and the bars of the usage."""
    assert "B\\xfcro" in keyledger("key", "show", key_id, PYTHONIOENCODING="ascii").out
    assert keyledger("usage", key_id, PYTHONIOENCODING="ascii").code == Exit.OK


def test_what_nobody_foresaw_is_told_by_its_kind_and_place_alone() -> None:
    """An error of another library may hold anything, so its text is not shown."""
    try:
        int("sk_live_secret")
    except ValueError as error:
        code, line = explained(error)
    assert code is Exit.UNEXPECTED
    assert re.fullmatch(r"internal error: ValueError \(test_cli\.py:\d+\)", line)


def test_every_kind_of_refusal_has_an_exit_code_that_the_help_explains(keyledger: Keyledger) -> None:
    """The table has each kind of error of the domain, and `--help` has each code."""
    assert set(KeyledgerError.__subclasses__()) <= set(KINDS)
    assert all(re.search(rf"\b{code.value} ", EXIT_CODES) for code in Exit)
    shown = keyledger("key", "create", "--help")
    assert (shown.code, shown.err) == (Exit.OK, "")
    assert EXIT_CODES in shown.out


def test_every_command_of_the_grammar_exists() -> None:
    """Commands are named as text and imported when they run; each name has its function."""
    names = set(_commands(grammar()))
    assert len(names) >= 15
    assert all(callable(command(name)) for name in names)


@pytest.mark.parametrize("cursor", ["-kR3", "--json", "-", "kR3-"])
def test_a_cursor_may_begin_like_an_option(cursor: str) -> None:
    """Whatever follows `--cursor` is the cursor: base64url has dashes in it."""
    for given in (["--cursor", cursor], [f"--cursor={cursor}"]):
        assert parse(["mail", "list", *given, "--limit", "2"]).cursor == cursor
    with pytest.raises(SystemExit):
        parse(["mail", "list", "--cursor"])


def test_columns_line_up_whatever_the_script() -> None:
    """Wide characters count twice, combining ones not at all; invisible ones are shown as escapes."""
    lines = table(("name", "n"), [("鍵", 1), ("e\u0301a", 2), (plain("\u202e\x9b"), 3)]).splitlines()
    assert lines == ["NAME        N", "鍵          1", "e\u0301a          2", "\\u202e\\x9b  3"]


def _assert_refused(done: Done, code: Exit) -> None:
    assert (done.code, done.out) == (code, ""), done.err
    assert re.fullmatch(r"keyledger: [^\n]+\n", done.err)


def _commands(parser: ArgumentParser) -> Iterator[str]:
    name = parser.get_default("run")
    if name is not None:
        yield name
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for verb in action.choices.values():
                yield from _commands(verb)


def test_notices_are_shown_and_changed(keyledger: Keyledger) -> None:
    """Where they go and which are sent; what is not named stays, and what cannot be meant changes nothing."""
    account = keyledger("account", "create", "--name", "Noticed", "--email", "ops@acme.example").out.strip()
    notifications = ("account", "notifications", account)
    before = keyledger(*notifications, "--json").json
    assert (before["email"], before["sent_to"]) == (None, "ops@acme.example")
    assert set(before["notices"].values()) == {True}
    changed = keyledger(*notifications, "--mute", "retired", "--mute", "attacked", "--email", "keys@acme.example")
    assert (changed.code, changed.err) == (Exit.OK, "")
    assert re.search(r"^sent_to +keys@acme\.example$", changed.out, re.MULTILINE)
    keyledger(*notifications, "--unmute", "retired")
    after = keyledger(*notifications, "--json").json
    assert (after["email"], after["sent_to"]) == ("keys@acme.example", "keys@acme.example")
    assert [kind for kind, is_sent in after["notices"].items() if not is_sent] == ["attacked"]
    refused = keyledger(*notifications, "--email", "a@acme.example> SIZE=1")
    assert (refused.code, refused.err) == (Exit.REFUSED, "keyledger: --email: is not an e-mail address\n")
    assert keyledger(*notifications, "--mute", "notices_changed").code == Exit.USAGE
    assert keyledger(*notifications, "--account-email", "--json").json["sent_to"] == "ops@acme.example"


def test_a_rotation_is_a_process_that_can_be_seen_and_cancelled(keyledger: Keyledger, key_id: str) -> None:
    """`workflow list` and `show` tell where it stands; what is unknown is refused."""
    assert keyledger("key", "rotate", key_id, "--grace-seconds", "3600").code == Exit.OK
    assert keyledger("key", "extend", key_id, "--grace-seconds", "7200", "--json").json["status"] == "rotating"
    assert keyledger("jobs", "run", "workflow").code == Exit.OK
    listed = {process["subject"]: process for process in keyledger("workflow", "list", "--json").json["data"]}
    process = listed[key_id]
    assert (process["workflow"], process["state"], process["step"]) == ("rotation", "running", "overlap")
    assert [timer["step"] for timer in process["timers"]] == ["warning"]
    shown = keyledger("workflow", "show", process["id"])
    assert re.search(rf"^subject +{key_id}$", shown.out, re.MULTILINE)
    assert keyledger("workflow", "cancel", process["id"], "--json").json["state"] == "cancelled"
    resumed = keyledger("workflow", "resume", process["id"])
    _assert_refused(resumed, Exit.REFUSED)
    assert resumed.err.startswith("keyledger: The process is cancelled")
    assert keyledger("workflow", "list", "--state", "stuck", "--json").json["data"] == []
    assert keyledger("workflow", "list", "--workflow", "webhook_failure", "--json").json["data"] == []
    _assert_refused(keyledger("workflow", "resume", "rot_000000000"), Exit.NOT_FOUND)


def test_when_a_key_is_due_is_set_for_the_account_and_for_a_key(keyledger: Keyledger, account: str) -> None:
    """New keys take the account's age, a key may have its own, and an age out of range is refused."""
    assert keyledger("account", "rotate-after", account, "--days", "30", "--json").json["rotation_due_days"] == 30
    key = _created(keyledger, account).json
    assert keyledger("account", "rotate-after", account, "--days", "90").code == Exit.OK
    due = keyledger("key", "rotate-after", key["id"], "--days", "60", "--json").json["rotation_due_at"]
    span = datetime.fromisoformat(due) - datetime.fromisoformat(key["rotation_due_at"])
    assert span == timedelta(days=30)
    _assert_refused(keyledger("account", "rotate-after", account, "--days", "0"), Exit.REFUSED)
    _assert_refused(keyledger("key", "rotate-after", key["id"], "--days", "3651"), Exit.REFUSED)


def test_an_imported_key_is_due_at_its_accounts_age(keyledger: Keyledger, account: str, tmp_path: Path) -> None:
    """Counted from its creation there, or from the import; a later change of the account's age leaves it as it is."""
    assert keyledger("account", "rotate-after", account, "--days", "30").code == Exit.OK
    line = {"name": "Moved", "environment": "live", "prefix": "acme", "algorithm": "sha256"}
    aged = {"hash": "ab" * 32, "created_at": "2026-01-02T03:04:05Z"}
    source = tmp_path / "keys.jsonl"
    source.write_text("\n".join(json.dumps(line | more) for more in (aged, {"hash": "cd" * 32})), encoding="utf-8")
    done = keyledger("key", "import", "--account", account, "--file", str(source), "--json")
    assert (done.code, done.json["imported"]) == (Exit.OK, 2), done.err
    assert keyledger("account", "rotate-after", account, "--days", "90").code == Exit.OK
    moved = {each["id"] for each in done.json["keys"]}
    listed = keyledger("key", "list", "--account", account, "--limit", "100", "--json").json["data"]
    keys = [key for key in listed if key["id"] in moved]
    assert [key["rotation_due_days"] for key in keys] == [30, 30]
    ages = [datetime.fromisoformat(key["rotation_due_at"]) - datetime.fromisoformat(key["created_at"]) for key in keys]
    assert ages == [timedelta(days=30)] * 2
    assert "2026-02-01T03:04:05Z" in {key["rotation_due_at"] for key in keys}
