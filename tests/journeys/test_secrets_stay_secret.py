"""A key's secret is in the answer that created it and nowhere else: no database, no log, no other answer, no file."""

import base64
import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from domain.credential import SECRET_CHARACTERS, parse_key
from infrastructure.postgres_binaries import binaries_for
from tests.kit.http import Answer, Client
from tests.kit.inside import inside
from tests.kit.service import DEADLINE_SECONDS, Service, eventually
from tests.kit.webhooks import WebhookReceiver

pytestmark = pytest.mark.journey


def forms(key: str) -> set[bytes]:
    """The secret part of a key as plain text, hex, and base64 wherever it may begin; and those in hex, as in a dump."""
    presented = parse_key(key.encode())
    assert presented is not None
    secret = presented.signed[-SECRET_CHARACTERS:]
    plain = {secret, secret[::-1]}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        inner = encoded[4 if shift else 0 : -4]  # what does not depend on the neighbours
        plain |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    in_hex = {text.hex().encode() for text in plain}
    return plain | in_hex | {text.upper() for text in in_hex}


def found(haystack: bytes, keys: list[str]) -> list[str]:
    """Those of the keys whose secret is in there in any form."""
    return [key for key in keys if any(form in haystack for form in forms(key))]


def test_the_search_finds_what_it_looks_for() -> None:
    """Plain, in hex, in base64 at any place, and in the hex of base64: each is found, and nothing in something else."""
    key = "sk_live_7Hq2mB9xT_" + "0123456789abcdefghijklmnopqrstuv" + "ABCDEFGHIJK"
    other = key.replace("0123456789", "9876543210")
    for ahead in (b"", b"a", b"ab"):
        text = ahead + b"Bearer " + key.encode() + b"!"
        for written in (text, base64.b64encode(text), text.hex().encode(), base64.b64encode(text).hex().encode()):
            assert found(written, [key, other]) == [key]


@pytest.fixture(scope="module")
def story(service: Service) -> tuple[list[str], list[Answer]]:
    """Keys created, used, misused, changed, rotated and revoked: the keys, and every answer in the order received."""
    with service.client(service.demo_key) as owner:
        keys = list(live(owner))
        settled = [owner.done("GET", "/api/keys?limit=1")["data"][0]["id"]]

        def is_settled() -> bool:
            return any(event["type"] == "key.used" for event in owner.pages(f"/api/keys/{settled[0]}/events"))

        eventually(is_settled, "the use is settled")
        for path in ("/api/keys", "/api/campaigns"):
            owner.pages(path)
        for listed in owner.pages("/api/keys"):
            owner.pages(f"/api/keys/{listed['id']}/events")
        return keys, owner.received


def live(owner: Client) -> Iterator[str]:
    """One life after another; gives each key that was created."""
    for environment in ("live", "staging", "dev"):
        body = {"name": f"Secret {environment}", "environment": environment, "allowed_ips": ["127.0.0.0/8"]}
        key = owner.done("POST", "/api/keys", body)
        yield key["key"]
        misuse(owner, key["key"], key["id"])
        owner.done("PATCH", f"/api/keys/{key['id']}", {"name": "Renamed", "scopes": ["campaigns:read"]})
        successor = owner.done("POST", f"/api/keys/{key['id']}/rotate")
        yield successor["key"]
        again = owner.done("POST", f"/api/keys/{key['id']}/rotate", {"grace_seconds": 0})
        yield again["key"]
        for each in (key, successor, again):
            owner.get("/api/campaigns", key=each["key"])
        owner.done("POST", f"/api/keys/{key['id']}/revoke", {"reason": "compromised", "note": "told to all"})
        assert owner.get("/api/campaigns", key=key["key"]).status == 401
        assert owner.get("/api/campaigns", key=again["key"]).status == 200


def misuse(owner: Client, key: str, key_id: str) -> None:
    """A key where it does not belong: mistyped, in the path, the query, other headers, a body that is refused."""
    for wrong in (key[:-1], key + "x", key.upper(), key.replace("sk_", "inv_", 1), key + "," + key, "Bearer " + key):
        assert owner.get("/api/campaigns", key=wrong).status == 401
    for method, path in (
        ("GET", f"/api/campaigns?api_key={key}"),
        ("GET", f"/api/keys?cursor={key}"),
        ("GET", f"/api/keys?status={key}"),
        ("GET", f"/api/campaigns/{key}"),
        ("GET", f"/api/keys/{key}"),
        ("GET", f"/api/keys/{quote(key.replace('_', '%5F'), safe='%')}"),
        ("POST", f"/api/keys/{key}/revoke"),
        ("GET", f"/{key}"),
        ("DELETE", f"/api/keys/{key}"),
        ("POST", f"/api/keys/{key_id}/nothing/{key}"),
    ):
        owner.request(method, path)
    for body in (
        {"name": "x", "environment": key},
        {"name": "x", "environment": "live", key: "x"},
        {"name": "x", "environment": "live", "scopes": [key]},
        {"name": "x", "environment": "live", "allowed_ips": [key]},
        {"name": "x", "environment": "live", "expires_at": key},
        [key],
        key,
    ):
        assert owner.post("/api/keys", body).status == 422
    headers = {"User-Agent": key, "X-Api-Key": key, "X-Request-Id": key, "X-Forwarded-For": key, "Cookie": f"key={key}"}
    owner.request("GET", "/api/campaigns", headers=headers)
    owner.request("GET", "/health/ready", headers=headers | {"Authorization": f"Bearer {key}"})


def test_only_the_creating_answer_holds_the_secret(story: tuple[list[str], list[Answer]]) -> None:
    """Of all the answers, headers included, each secret is in exactly one, which is not to be stored."""
    keys, answers = story
    for key in keys:
        holding = [answer for answer in answers if found(repr((answer.headers, answer.body)).encode(), [key])]
        assert [answer.status for answer in holding] == [201]
        assert holding[0].json()["key"] == key
        assert holding[0].headers["cache-control"] == "no-store"


def test_no_list_has_a_field_for_the_key(story: tuple[list[str], list[Answer]]) -> None:
    """`GET /api/keys` gives the prefix, and no `key`."""
    keys, answers = story
    bodies = [answer.json() for answer in answers if answer.status == 200]
    listed = [entry for body in bodies for entry in body.get("data", []) if "prefix" in entry]
    assert {key.rpartition("_")[0] for key in keys} <= {entry["prefix"] for entry in listed}
    assert not [entry for entry in listed if "key" in entry]


def test_the_database_does_not_hold_it(service: Service, story: tuple[list[str], list[Answer]]) -> None:
    """Neither a whole dump nor any event's bytes have any key's secret, the first key's included."""
    keys = [*story[0], service.demo_key]
    dump = dump_of(service)
    assert all(prefix.encode() in dump for prefix in {key.rpartition("_")[0] for key in keys})
    assert found(dump, keys) == []
    with psycopg.connect(service.conninfo) as connection:
        states = [bytes(state) for (state,) in connection.execute("SELECT state FROM ledger.events")]
    assert {json.loads(state).get("prefix") for state in states} >= {key.rpartition("_")[0] for key in keys}
    assert found(b"\n".join(states), keys) == []


def dump_of(service: Service) -> bytes:
    """All that `pg_dump` says, bytea in hex."""
    return subprocess.run(
        [binaries_for(service.data_dir / "postgres") / "pg_dump", "--inserts", f"--dbname={service.conninfo}"],
        capture_output=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    ).stdout


def test_the_logs_do_not_hold_it(service: Service, story: tuple[list[str], list[Answer]]) -> None:
    """The service's output has the first key, printed once with its curl line, and no other; its log has none."""
    errors = service.errors.read_bytes()
    assert b"http_request" in errors
    assert found(errors, [*story[0], service.demo_key]) == []
    assert found(service.output.read_bytes(), story[0]) == []
    assert service.output.read_text(encoding="utf-8").count(service.demo_key) == 2


def test_no_file_of_the_service_holds_it(service: Service, story: tuple[list[str], list[Answer]]) -> None:
    """No file in the data directory has it: no table, no write-ahead log, no log of PostgreSQL."""
    keys = [*story[0], service.demo_key]
    for file in service.data_dir.rglob("*"):
        if file.is_file():
            assert found(content(file), keys) == [], file


def content(file: Path) -> bytes:
    """The file's bytes; none when PostgreSQL has just taken it away."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def test_a_webhooks_secret_is_in_the_two_answers_that_made_it_alone(service: Service) -> None:
    """Neither text nor bytes are in another answer, the database, the logs or any file; at rest it is sealed."""
    with service.client(service.demo_key) as owner:
        body = {"url": "https://hooks.acme.example/", "events": ["invite.redeemed"]}
        made = owner.done("POST", "/api/webhooks", body)
        path = f"/api/webhooks/{made['id']}"
        secrets = [made["secret"], owner.done("POST", f"{path}/rotate-secret")["secret"]]
        for secret in secrets:
            owner.request("PATCH", path, {"description": 1, secret: secret})
            owner.request("PATCH", path, {"events": [secret]})
            for encoded in (secret, quote(secret, safe=""), quote(quote(secret, safe=""))):
                owner.get(f"{path}/{encoded}")
                owner.get(f"/api/webhooks/{encoded}")
                assert owner.get(f"/auth/forward/callback/{encoded}").status == 200
            owner.get(f"/api/webhooks?cursor={quote(secret, safe='')}")
            owner.get(path)
        owner.pages("/api/webhooks")
        holding = [answer for answer in owner.received if any(bare(each) in answer.body for each in secrets)]
        assert [(answer.status, answer.headers["cache-control"]) for answer in holding] == [(201, "no-store")] * 2
    with psycopg.connect(service.conninfo) as connection:
        rows = connection.execute(
            "SELECT version, sealed FROM credentials.webhook_secrets WHERE endpoint_id = %s", [made["id"]]
        ).fetchall()
        connection.execute("CHECKPOINT")  # so that the tables' files have what the log has
    assert sorted(version for version, _ in rows) == [1, 2]
    texts = [form for secret in secrets for form in webhook_forms(secret)]
    files = [service.errors, service.output, *(file for file in service.data_dir.rglob("*") if file.is_file())]
    assert [(file, form) for file in files for form in texts if form in content(file)] == []


def bare(secret: str) -> bytes:
    """The text after the prefix."""
    return secret.removeprefix("whsec_").encode()


def webhook_forms(secret: str) -> set[bytes]:
    """A webhook's secret as text and as bytes, each also in hex."""
    plain = {bare(secret), bare(secret).replace(b"+", b"-").replace(b"/", b"_"), base64.b64decode(bare(secret))}
    return plain | {text.hex().encode() for text in plain}


def test_a_successor_that_is_handed_over_is_in_its_receivers_body_alone(place: Path) -> None:
    """One that was refused and one that was taken: neither secret is in the database, an answer, a log or any file.

    The service does it all by itself: the key falls due, the first attempt is answered 401, the second one 204, and
    the owner's other webhook and mails are told.
    """
    settings = {"webhook_allowed_networks": "127.0.0.0/8", "settlement_window_seconds": 1}
    with WebhookReceiver(place / "receiver") as receiver, Service(place / "service", **settings) as service:
        with inside(service) as back:
            owned = back.key(back.account())
        with service.client(owned.secret) as owner:
            endpoints = [
                owner.done("POST", "/api/webhooks", {"url": receiver.url(path), "events": events})
                for path, events in (("/told", ["key.*"]), ("/taken", ["invite.redeemed"]))
            ]
            owner.done("PATCH", "/api/account", {"hand_over_to": endpoints[1]["id"]})
            with inside(service) as back:
                due = back.key(owned.account_id, name="Due", ago=timedelta(days=91))
            eventually(lambda: receiver.hits("/taken"), "the first attempt")
            receiver.knows(*(endpoint["secret"] for endpoint in endpoints))
            eventually(lambda: len(receiver.hits("/taken")) == 2, "the second attempt")
            bodies = [json.loads(hit["body"])["data"] for hit in receiver.hits("/taken")]
            keys = [body["key"] for body in bodies]
            assert [hit["verified_by"] for hit in receiver.hits("/taken")] == [None, 1]
            owner.close()  # it was idle meanwhile, for longer than the server may wait for a next request
            assert [owner.get("/api/campaigns", key=key).status for key in keys] == [401, 200]

            def all_is_told() -> bool:
                told = owner.pages(f"/api/webhooks/{endpoints[0]['id']}/deliveries")
                kinds = {each["type"] for each in told if each["status"] == "delivered"}
                used = owner.done("GET", f"/api/keys/{bodies[1]['id']}/events")["data"]
                return "key.rotated" in kinds and any(event["type"] == "key.used" for event in used)

            eventually(all_is_told, "the other webhook is told, and the use is settled")
            for path in (
                "/api/keys",
                "/api/webhooks",
                *(f"/api/webhooks/{each['id']}/deliveries" for each in endpoints),
            ):
                owner.pages(path)
            for key_id in (due.id, *(body["id"] for body in bodies)):
                owner.pages(f"/api/keys/{key_id}/events")
                owner.get(f"/api/keys/{key_id}")
            assert owner.request("GET", "/metrics").status == 200
            answers = repr([(answer.headers, answer.body) for answer in owner.received]).encode()
        dump = dump_of(service)
        assert all(body["id"].encode() in dump and body["prefix"].encode() in dump for body in bodies)
        assert b"rotation.handed_over" in dump
        with psycopg.connect(service.conninfo) as connection:
            stored = connection.execute(
                "SELECT state FROM ledger.events"
                " UNION ALL SELECT convert_to(each::text, 'UTF8') FROM outbox.messages each"
                " UNION ALL SELECT convert_to(each::text, 'UTF8') FROM outbox.attempts each"
            ).fetchall()
            connection.execute("CHECKPOINT")  # so that the tables' files have what the log has
        texts = b"\n".join(bytes(text) for (text,) in stored)
        assert b"not accepted (401)" in texts
        files = [service.errors, service.output, *(file for file in service.data_dir.rglob("*") if file.is_file())]
        places = {"answers": answers, "dump": dump, "stored": texts} | {str(file): content(file) for file in files}
        assert [name for name, text in places.items() if found(text, keys)] == []
    told, taken = (json.dumps(receiver.hits(path)).encode() for path in ("/told", "/taken"))
    assert (found(told, keys), found(taken, keys)) == ([], keys)
