"""The README and the design records say what is: their commands are run, their tables and paths are looked up."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from domain.credential import SCANNER_RULE
from interfaces.cli.exits import EXIT_CODES, Exit
from interfaces.http.errors import EDGE, KINDS
from interfaces.settings import SettingError, Settings
from tests.kit.http import Client
from tests.kit.service import CHECKOUT, DEADLINE_SECONDS, HOST, KEY, Service, eventually, free_port

pytestmark = pytest.mark.journey

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
SECURITY = (CHECKOUT / "ops" / "security.md").read_text(encoding="utf-8")
RECORDS = sorted((CHECKOUT / "ops" / "adr").glob("*.md"))
PAGES = [CHECKOUT / "README.md", CHECKOUT / "ops" / "security.md", *RECORDS]
SHOWN_KEY = "sk_live_7Hq2mB9xT_…"
SHOWN_URL = "http://127.0.0.1:8000"
PATH = re.compile(
    r"(?<![\w/.-])(?:(?:domain|application|infrastructure|interfaces|tests|ops|\.ci)/[\w./-]*\w|requirements[\w-]*\.lock|pyproject\.toml)"
)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of that language ("" for none), in order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for found, text in fenced if found == language]


def table(page: str, first_heading: str) -> list[list[str]]:
    """The rows of the one table whose first heading is that; each cell without its backticks."""
    (found,) = re.findall(rf"^\| {re.escape(first_heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in found.splitlines()]


def environment(**settings: object) -> dict[str, str]:
    """The machine's environment with these settings alone, and with the project's commands."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    given["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"
    return given | {f"KEYLEDGER_{name.upper()}": str(value) for name, value in settings.items()}


def bash(script: str, place: Path, env: Mapping[str, str]) -> str:
    """What the script prints; it must end well, each command of it."""
    words = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        words, cwd=place, env=env, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what is run


def test_the_one_command_prints_what_the_readme_shows_and_its_curl_line_works(place: Path) -> None:
    """`ops/serve`: the lines of the README with another key, a curl line that answers with data, an end by Ctrl-C."""
    (command, *_), (shown,), port = blocks(""), blocks("text"), free_port()
    output = place / "stdout"
    env = environment(data_dir=place / "data", port=port)
    with output.open("wb") as stdout, (place / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [CHECKOUT / command.strip()], env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    try:
        eventually(lambda: process.poll() is not None or "curl " in output.read_text(encoding="utf-8"), "it serves")
        printed = output.read_text(encoding="utf-8")
        key = KEY.findall(printed)[0]
        assert printed == shown.replace(SHOWN_KEY, key).replace(SHOWN_URL, f"http://{HOST}:{port}")
        line = printed.splitlines()[-1]
        assert "Backend engineers" in bash(f"{line} --silent --show-error --fail", place, env)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 0


def test_the_other_commands_are_there(checkout: Path) -> None:
    """Each command that stands alone in a block is an executable file."""
    commands = [block.strip() for block in blocks("") if re.fullmatch(r"ops/\w+\n", block)]
    assert commands == ["ops/serve", "ops/test"]
    assert all(os.access(checkout / command, os.X_OK) for command in commands)


def test_the_commands_of_the_command_line_run(service: Service, place: Path) -> None:
    """The block under "Use it", against a running service: the key that it makes works, and is revoked at its end."""
    script = blocks("sh")[0].replace(SHOWN_URL, service.url)
    assert script.count("keyledger ") == 7
    printed = bash(script, place, environment(data_dir=service.data_dir))
    assert '"name":"Backend engineers"' in printed
    assert "key.created" in printed
    assert "key.rotated" in printed
    assert "seen in a build log" in printed


def test_the_commands_of_production_run(conninfo: str, place: Path) -> None:
    """The block under "Operations" serves on a database of one's own with secrets from a file; no demo, a clean end."""
    script = re.sub(r"postgresql://\S+", f"'{conninfo}'", blocks("sh")[1])
    assert script.endswith("\nkeyledger serve\n")
    script = script.replace("\nkeyledger serve\n", "\nexec keyledger serve\n")
    port, said = free_port(), place / "stderr"
    with (place / "stdout").open("wb") as stdout, said.open("wb") as stderr:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=place,
            env=environment(port=port),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    try:
        eventually(lambda: process.poll() is not None or b"Keyledger serves on" in said.read_bytes(), "it serves")
        with Client(HOST, port) as client:
            assert client.get("/health/ready").json()["status"] == "ok"
        assert not (place / "stdout").read_bytes()
        assert not (place / "var").exists()
    finally:
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0


def test_the_commands_of_the_day_run(service: Service, place: Path) -> None:
    """The last block: readiness, and a rebuild while the service runs."""
    script = blocks("sh")[2].replace(SHOWN_URL, service.url)
    printed = bash(script, place, environment(data_dir=service.data_dir)).splitlines()
    assert json.loads(printed[0])["status"] == "ok"
    assert int(printed[1]) > 0
    assert len(blocks("sh")) == 3


def test_a_request_line_looks_like_the_readmes(service: Service) -> None:
    """The example has the fields of a real line, in their order, each of the same type."""
    (example,) = [json.loads(block) for block in blocks("json")]
    with service.client(service.demo_key) as client:
        answer = client.get("/api/campaigns")

    def line() -> dict[str, Any] | None:
        request_id = answer.headers["x-request-id"]
        said = service.errors.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [json.loads(each) for each in said if request_id in each and each.endswith("\n")]
        return found[0] if found else None

    eventually(line, "the line is written")
    real = line()
    assert real is not None
    assert [(name, type(value)) for name, value in real.items()] == [
        (name, type(value)) for name, value in example.items()
    ]
    assert {name: real[name] for name in ("event", "path", "route", "status", "outcome")} == {
        name: example[name] for name in ("event", "path", "route", "status", "outcome")
    }


# -- what is looked up


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, **values: str) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """As a dictionary's."""
        self.names.add(name)
        return super().get(name, default)


SETTINGS = table(README, "variable")


def test_the_settings_table_has_every_variable_that_is_read_and_no_other() -> None:
    """Its names are those that reading the settings asks the environment for, each once."""
    asked = Asked()
    Settings.read(asked)
    names = [name for name, *_ in SETTINGS]
    assert sorted(names) == sorted(asked.names)


@pytest.mark.parametrize(("name", "default", "takes"), [row[:3] for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_a_settings_default_and_bounds_are_the_readmes(name: str, default: str, takes: str) -> None:
    """Set to its default, nothing changes; the bounds are taken, and what lies outside of them is refused."""
    if default:
        assert Settings.read({name: default}) == Settings.read({})
    if bounds := re.fullmatch(r"(\d+) to (\d+)", takes):
        low, high = int(bounds[1]), int(bounds[2])
        for number in (low, high):
            Settings.read({name: str(number)})
        for number in (low - 1, high + 1):
            with pytest.raises(SettingError, match=name):
                Settings.read({name: str(number)})
    elif choice := re.fullmatch(r"(\w+)` or `(\w+)", takes):
        assert Settings.read({name: choice[1]}) != Settings.read({name: choice[2]})
        with pytest.raises(SettingError, match=name):
            Settings.read({name: "perhaps"})


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    """The table has every code once, in the words of `keyledger --help`."""
    rows = {int(code): words for code, words in table(README, "exit code")}
    assert list(rows) == sorted(Exit)
    for code, words in rows.items():
        assert re.search(rf"\b{code}\s+{re.escape(words)}[;\n]", EXIT_CODES), words


def test_the_error_table_is_that_of_the_http_edge() -> None:
    """The table has every status and code that an answer can have, in the order of the statuses."""
    rows = [(int(status), code) for status, code, _ in table(README, "status")]
    edge = [(int(status), code) for status, (code, _) in EDGE.items()]
    assert rows == sorted({*((int(status), code) for status, code in KINDS.values()), *edge})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """Files, folders and links of the README, the design records and the security page."""
    text = page.read_text(encoding="utf-8")
    named = {CHECKOUT / path for path in PATH.findall(text)}
    linked = {page.parent / link for link in LINK.findall(text)}
    assert {str(path) for path in named | linked if not path.exists()} == set()
    assert named


def locked(name: str) -> dict[str, str]:
    """The versions that a lock pins."""
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", (CHECKOUT / name).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_direct_dependency_is_on_record_with_its_locked_version() -> None:
    """The first record has one line for each package that pyproject.toml asks for, its extras and the build's."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = chain(project["build-system"]["requires"], project["project"]["dependencies"])
    names = set(_names([*asked, *project["project"]["optional-dependencies"]["test"]]))
    record = RECORDS[0].read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", record, re.MULTILINE))
    assert set(rows) == names
    pinned = locked("requirements-test.lock") | locked("requirements.lock")
    assert rows == {name: pinned[name] for name in names}


def _names(requirements: list[str]) -> Iterator[str]:
    for requirement in requirements:
        name, extras = re.findall(r"^([\w-]+)(?:\[([\w,]+)\])?", requirement)[0]
        yield name
        if name == "psycopg":
            yield from (f"psycopg-{extra}" for extra in extras.split(","))


def test_the_scanner_rule_is_the_credentials_own() -> None:
    """The security page's rule for gitleaks is TOML, and its expression the one that the grammar states."""
    (block,) = re.findall(r"^```toml\n(.*?)^```$", SECURITY, re.MULTILINE | re.DOTALL)
    (rule,) = tomllib.loads(block)["rules"]
    assert rule["regex"] == SCANNER_RULE
