"""`/schema`: an OpenAPI document that holds together, tells every error, and gives no secret away."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interfaces.conftest import Owner
from tests.kit.http_answers import StrictClient
from tests.kit.http_server import HttpServer

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
ANYWHERE = {"400", "401", "403", "404", "409", "413", "422", "429", "500", "503"}
TYPES = {"string", "number", "integer", "object", "array", "boolean", "null"}


@pytest.fixture
def document(owner: Owner) -> Any:
    """The document, as anybody gets it."""
    return owner.client.get("/schema").json


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    """Each path, method and operation."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def test_anybody_may_read_it(server: HttpServer) -> None:
    """Both addresses give the same document without a key."""
    with server.client() as client:
        first, second = client.get("/schema"), client.get("/schema/openapi.json")
    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body
    assert first.header("content-type") == "application/vnd.oai.openapi+json"


def test_it_is_an_openapi_document(document: Any) -> None:
    """The fixed fields of OpenAPI 3.1: version, info, paths with operations, each with a unique id and its answers."""
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"] == "Keyledger"
    assert document["info"]["version"]
    ids = []
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert method in METHODS
        assert operation["summary"]
        ids.append(operation["operationId"])
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
        named = re.findall(r"\{(\w+)\}", path)
        told = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
        assert sorted(named) == sorted(told)
        assert all(each["required"] for each in operation.get("parameters", []) if each["in"] == "path")
    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere(document: Any) -> None:
    """Each `$ref` names a component that is there, each schema's type exists, each required property is described."""
    for node in nodes(document):
        if isinstance(reference := node.get("$ref"), str):
            place = document
            assert reference.startswith("#/")
            for step in reference[2:].split("/"):
                place = place[step]
    for name, schema in document["components"]["schemas"].items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert schema["type"] in TYPES
        assert set(schema.get("required", [])) <= set(schema.get("properties", {}))


def test_every_protected_route_says_its_errors(document: Any) -> None:
    """What asks for a key says which scheme, and tells every error with the error body and an example of it."""
    [(scheme, described)] = document["components"]["securitySchemes"].items()
    assert (described["type"], described["scheme"]) == ("http", "bearer")
    protected = [(path, operation) for path, _, operation in operations(document) if not path.startswith("/health/")]
    assert len(protected) >= 13
    for path, operation in protected:
        assert operation["security"] == [{scheme: []}], path
        assert set(operation["responses"]) >= ANYWHERE, path
        for status in ANYWHERE:
            content = operation["responses"][status]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
            assert content["examples"]


def test_bodies_are_required_where_they_are(document: Any) -> None:
    """A body that may be left out is not called required, and the other way round."""
    required = {
        (method, path): operation["requestBody"]["required"]
        for path, method, operation in operations(document)
        if "requestBody" in operation
    }
    assert required == {
        ("patch", "/api/account"): True,
        ("post", "/api/keys"): True,
        ("post", "/api/keys/{key_id}/rotate/extend"): False,
        ("patch", "/api/keys/{key_id}"): True,
        ("post", "/api/keys/{key_id}/rotate"): False,
        ("post", "/api/keys/{key_id}/revoke"): False,
        ("post", "/api/campaigns"): True,
        ("patch", "/api/notifications"): True,
        ("post", "/api/webhooks"): True,
        ("patch", "/api/webhooks/{webhook_id}"): True,
        ("post", "/api/webhooks/{webhook_id}/rotate-secret"): False,
        ("post", "/api/verify"): True,
    }


def test_a_key_is_described_with_the_fields_that_it_has(document: Any, owner: Owner) -> None:
    """The described properties of a key, a new key and a revoked one are those of the answers."""
    schemas = document["components"]["schemas"]
    created = owner.client.post("/api/keys", {"name": "x", "environment": "dev"}).json
    told = {
        "IssuedKeyBody": created,
        "KeyBody": owner.client.get(f"/api/keys/{created['id']}").json,
        "RevokedKeyBody": owner.client.post(f"/api/keys/{created['id']}/revoke").json,
        "CampaignBody": owner.client.post("/api/campaigns", {"name": "x"}).json,
        "NotificationsBody": owner.client.get("/api/notifications").json,
        "EventBody": owner.client.get(f"/api/keys/{created['id']}/events").json["data"][0],
    }
    for name, body in told.items():
        assert set(schemas[name]["properties"]) == set(schemas[name]["required"]) == set(body), name


def test_it_says_the_same_each_time_and_gives_no_secret_away(document: Any) -> None:
    """No example is made up by chance, and none looks like a credential."""
    texts = ("Production API", "https://hooks.acme.example/keyledger")
    for node in nodes(document):
        for example in node.get("examples", []) if isinstance(node.get("examples"), list) else []:
            told = (["campaigns:read"], ["203.0.113.0/24"], ["key.*"], {"rotation_reminder": False}, *texts)
            assert example in told, example
    words = json.dumps(document)
    assert not re.search(r"(?:sk_(?:live|staging|dev)|inv|ses|whsec)_[0-9A-Za-z]", words)
    assert "interfaces." not in words


def examples(client: StrictClient) -> dict[str, set[bytes]]:
    """The error bodies that the document gives as examples, by status."""
    found: dict[str, set[bytes]] = {}
    for _, _, operation in operations(client.get("/schema").json):
        for status in ANYWHERE & set(operation["responses"]):
            given = operation["responses"][status]["content"]["application/json"]["examples"]
            for example in given.values():
                raw = json.dumps(example["value"], separators=(",", ":")).encode()
                found.setdefault(status, set()).add(raw)
    return found


def test_the_examples_of_errors_are_what_is_answered(owner: Owner) -> None:
    """Each error that can be had by asking is answered in exactly the bytes of its example."""
    client, key = owner.client, owner.key
    told = examples(client)
    heard = [
        client.call("POST", "/api/keys", body=b"{"),
        client.get("/api/keys", key="nonsense"),
        client.get("/api/campaigns/cmp_0000000000000000"),
        client.get("/api/keys/key_000000000"),
        client.call("POST", "/api/keys", body=b"x" * 70_000),
        client.post("/api/campaigns", {"name": ""}),
    ]
    other = client.post("/api/keys", {"name": "x", "environment": "dev"}).json["id"]
    client.post(f"/api/keys/{other}/revoke")
    heard.append(client.post(f"/api/keys/{other}/rotate"))
    assert {str(each.status) for each in heard} == ANYWHERE - {"429", "500", "503"}
    for each in heard:
        assert told[str(each.status)] == {each.body}
    assert client.get(key.path).status == 200


def test_the_access_log_is_told_in_all_its_forms(document: Any) -> None:
    """A page of JSON, and the two forms of an export."""
    content = document["paths"]["/api/access-logs"]["get"]["responses"]["200"]["content"]
    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/AccessLogPage"}},
        "text/csv": {"schema": {"type": "string"}},
        "application/jsonl": {"schema": {"type": "string"}},
    }
