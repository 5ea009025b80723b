"""A team moves without reissuing: keys that another system hashed are imported into the running service, and used."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import bcrypt
import psycopg
import pytest

from tests.kit.books import half_made
from tests.kit.http import Answer, Client
from tests.kit.service import DEADLINE_SECONDS, Service

pytestmark = pytest.mark.journey

COMMAND = Path(sys.executable).with_name("keyledger")
COST = 8
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A key of another system, and the line that tells of it."""

    raw: str
    line: dict[str, Any]


def foreign(algorithm: str, *, form: str = "acme_{:04d}_{}", variant: str = "2b", **more: Any) -> Foreign:
    """A key that nobody else has."""
    number = next(_numbers)
    raw = form.format(number, hashlib.sha256(b"%d" % number).hexdigest()[:40])
    if algorithm == "bcrypt":
        made = bcrypt.hashpw(raw.encode(), bcrypt.gensalt(COST)).decode().replace("$2b$", f"${variant}$")
    else:
        made = hashlib.sha256(raw.encode()).hexdigest()
    line = {"name": f"Moved {number}", "environment": "live", "prefix": raw[:9], "hash": made, "algorithm": algorithm}
    return Foreign(raw, line | more)


@dataclass(frozen=True, slots=True)
class Operator:
    """Who imports into the running service, for its demo account."""

    service: Service
    account_id: str

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """The command beside the service."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        return subprocess.run(
            [COMMAND, *words],
            env=inherited | {"KEYLEDGER_DATA_DIR": str(self.service.data_dir), "KEYLEDGER_BCRYPT_COST": "10"},
            input=given,
            capture_output=True,
            encoding="utf-8",
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def bring(self, *keys: Foreign | dict[str, Any] | str, more: tuple[str, ...] = ()) -> tuple[int, Any, str]:
        """Imports these lines: the exit code, the JSON, and the talk."""
        lines = (key.line if isinstance(key, Foreign) else key for key in keys)
        given = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        done = self.run(
            "key", "import", "--account", self.account_id, "--file", "-", "--json", *more, given=given
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout), done.stderr

    def imported(self, key: Foreign) -> str:
        """Imports one key; its id here."""
        code, body, said = self.bring(key)
        assert (code, body["imported"]) == (0, 1), said
        return body["keys"][0]["id"]

    def row(self, key_id: str) -> tuple[str, bytes | None]:
        """The key's verifier and receipt in the vault."""
        with psycopg.connect(self.service.conninfo) as connection:
            row = connection.execute(
                "SELECT verifier, receipt FROM credentials.verifiers WHERE key_id = %s", [key_id]
            ).fetchone()
        assert row is not None
        return row


@pytest.fixture(scope="module")
def operator(service: Service) -> Operator:
    with service.client(service.demo_key) as owner, psycopg.connect(service.conninfo) as connection:
        key_id = owner.done("GET", "/api/keys?limit=1")["data"][0]["id"]
        row = connection.execute("SELECT account_id FROM views.keys WHERE key_id = %s", [key_id]).fetchone()
    assert row is not None
    return Operator(service, row[0])


@pytest.fixture
def workers(service: Service) -> Iterator[list[Client]]:
    """A client of each worker."""
    clients = list(service.client_of_each_worker(service.demo_key).values())
    yield clients
    for client in clients:
        client.close()


def use(client: Client, key: str) -> Answer:
    """One request with that key."""
    return client.get("/api/campaigns", key=key)


@pytest.mark.parametrize(
    "given",
    [
        {"algorithm": "bcrypt", "variant": "2a"},
        {"algorithm": "bcrypt", "variant": "2b"},
        {"algorithm": "bcrypt", "variant": "2y"},
        {"algorithm": "sha256"},
        {"algorithm": "sha256", "form": "sk_live_{:04d}Hq2mB_{}xyz"},  # our own grammar, with another's tag
        {"algorithm": "bcrypt", "form": "sk_live_{:04d}Hq2mB_{}xyz"},
    ],
)
def test_an_imported_key_is_accepted_by_every_worker_at_once(
    operator: Operator, workers: list[Client], given: dict[str, Any]
) -> None:
    """From the answer of the import on each worker accepts it, and a key that differs in its last character nowhere."""
    key = foreign(**given)
    key.line["prefix"] = key.raw[:17]
    refused = [use(client, key.raw) for client in workers]
    key_id = operator.imported(key)
    assert [use(client, key.raw).status for client in workers] == [200] * len(workers)
    wrong = key.raw[:-1] + ("A" if key.raw[-1] != "A" else "B")
    refused += [use(client, wrong) for client in workers]
    assert {answer.status for answer in refused} == {401}
    assert len({answer.body for answer in refused}) == 1
    _, receipt = operator.row(key_id)
    assert receipt is not None


def test_an_imported_key_is_listed_counted_and_has_a_history(operator: Operator, workers: list[Client]) -> None:
    """Its life here begins with `key.imported`; its name there and its age came with it, its hash is in no answer."""
    key = foreign("bcrypt", external_id="legacy-1", created_at="2026-01-02T03:04:05+02:00", scopes=["campaigns:read"])
    key_id = operator.imported(key)
    assert [use(client, key.raw).status for client in workers] == [200, 200]
    owner = workers[0]
    listed = next(each for each in owner.pages("/api/keys") if each["id"] == key_id)
    assert (listed["name"], listed["prefix"]) == (key.line["name"], key.line["prefix"])
    assert (listed["request_count"], listed["scopes"]) == (2, ["campaigns:read"])
    assert listed["created_at"] == "2026-01-02T01:04:05Z"
    first = owner.pages(f"/api/keys/{key_id}/events")[0]
    assert (first["type"], first["version"]) == ("key.imported", 1)
    assert (first["data"]["algorithm"], first["data"]["external_id"]) == ("bcrypt", "legacy-1")
    history = operator.run("key", "history", key_id)
    assert "key.imported" in history.stdout
    for told in (json.dumps(listed), json.dumps(first), history.stdout):
        assert "$2" not in told
        assert key.raw not in told


def test_a_revoked_imported_key_is_refused_from_the_answer_on(operator: Operator, workers: list[Client]) -> None:
    """As any other: on each worker, and the attempt is still known to be that key's."""
    for algorithm in ("bcrypt", "sha256"):
        key = foreign(algorithm)
        key_id = operator.imported(key)
        assert [use(client, key.raw).status for client in workers] == [200, 200]
        assert workers[0].done("POST", f"/api/keys/{key_id}/revoke")["status"] == "revoked"
        assert [use(client, key.raw).status for client in workers] == [401, 401]
        assert workers[0].done("GET", f"/api/keys/{key_id}")["failed_attempts"] == 2


def test_the_successor_of_an_imported_key_is_a_key_of_ours(operator: Operator, workers: list[Client]) -> None:
    """Rotation is the way out of the other system: both are accepted for the grace period."""
    key = foreign("sha256")
    key_id = operator.imported(key)
    successor = workers[0].done("POST", f"/api/keys/{key_id}/rotate", {"grace_seconds": 3600})
    assert successor["key"].startswith("sk_live_")
    assert (successor["replaces"], successor["lineage_id"]) == (key_id, key_id)
    for client in workers:
        assert [use(client, each).status for each in (key.raw, successor["key"])] == [200, 200]


def test_a_file_is_imported_once(operator: Operator, tmp_path: Path) -> None:
    """A second run imports nothing, says so, and appends nothing; a dry run decides the same and appends nothing."""
    keys = [foreign("bcrypt", external_id="twice-1"), foreign("sha256", external_id="twice-2"), foreign("sha256")]
    file = tmp_path / "keys.jsonl"
    file.write_text("\ufeff" + "\r\n\n".join(json.dumps(key.line) for key in keys))
    words = ("key", "import", "--account", operator.account_id, "--file", str(file))
    dry = operator.run(*words, "--dry-run", "--json")
    assert json.loads(dry.stdout)["imported"] == 3
    assert "would be" in dry.stderr
    for imported, before in ((3, 0), (0, 3)):
        done = operator.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout)
        assert (body["imported"], body["imported_before"], body["refused"]) == (imported, before, 0)
        assert [key["external_id"] for key in body["keys"]] == ["twice-1", "twice-2", None]
    assert "nothing to import" in done.stderr
    plain = operator.run(*words)
    assert [line.split("\t")[0] for line in plain.stdout.splitlines()] == ["1", "3", "5"]


def test_bad_lines_are_refused_one_by_one_and_never_repeat_a_hash(operator: Operator) -> None:
    """Each with its number; the good ones between them are imported, and the exit code tells that some were not."""
    good, other = foreign("sha256"), foreign("bcrypt")
    made = other.line["hash"]
    bad: list[dict[str, Any] | str] = [
        "not json",
        "[1]",
        "[" * 10_000,
        '"\xff"',
        json.dumps({"name": made}),
        other.line | {"hash": made[:-1]},
        other.line | {"algorithm": "sha256"},
        other.line | {"algorithm": made},
        other.line | {"environment": made},
        other.line | {"hash": made.replace("$08$", "$15$")},
        other.line | {"hash": 7},
        other.line | {"prefix": "abc"},
        other.line | {"prefix": "a b c d"},
        other.line | {"prefix": good.raw, "algorithm": "sha256", "hash": good.line["hash"]},
        other.line | {"scopes": [made]},
        other.line | {"allowed_ips": [made]},
        other.line | {"expires_at": "2020-01-01T00:00:00Z"},
        other.line | {"created_at": "2999-01-01T00:00:00Z"},
        other.line | {"created_at": "0001-01-01T00:00:00+02:00"},
        other.line | {"external_id": "a\u0000b"},
        other.line | {"external_id": made, made: 1},
        other.line | {"name": "x" * 101},
        "x" * 20_000,
        good,
    ]
    code, body, said = operator.bring(good, *bad)
    assert code == 3
    assert (body["imported"], body["refused"]) == (1, len(bad))
    assert [each["line"] for each in body["refusals"]] == list(range(2, len(bad) + 2))
    assert "must be $2a$, $2b$ or $2y$, a cost" in said
    for told in (json.dumps(body), said):
        assert made[7:] not in told
        assert made[7:30] not in told
        assert good.line["hash"][:16] not in told
        assert good.raw not in told


def test_what_an_import_leaves_agrees_and_holds_no_key(operator: Operator, workers: list[Client]) -> None:
    """Every imported key has its verifier, its events and its row, and no table holds a key."""
    keys = [foreign("bcrypt"), foreign("sha256")]
    for key in keys:
        operator.imported(key)
        assert use(workers[0], key.raw).status == 200
    assert half_made(operator.service.conninfo) == []
    with psycopg.connect(operator.service.conninfo) as connection:
        for schema, table in connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall():
            query = psycopg.sql.SQL("SELECT t::text FROM {} AS t").format(psycopg.sql.Identifier(schema, table))
            text = "\n".join(row[0] for row in connection.execute(query))
            for key in keys:
                assert key.raw not in text
                assert key.raw.encode().hex() not in text
