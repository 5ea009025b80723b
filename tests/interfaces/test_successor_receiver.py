"""The example of a receiver of successors, served by granian: it takes in what is handed over, and nothing else."""

import time
from pathlib import Path

import pytest

from domain.api_key import ApiKey
from domain.key_status import KeyStatus
from tests.kit.hosts import hosting
from tests.kit.http import Client
from tests.kit.http_answers import HOST
from tests.kit.http_server import serving
from tests.kit.service import eventually
from tests.kit.successors import Owner, back_ahead
from tests.kit.webhooks import WebhookReceiver

PATH = "/successors"


def test_the_example_takes_in_a_successor_that_works(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the key that falls due to the file with its successor, which is accepted; no forged one gets there."""
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    monkeypatch.setenv("KEYS", str(keys))
    with back_ahead(conninfo) as back, WebhookReceiver(tmp_path / "other") as other:
        owner = Owner(back, other, conninfo, "/elsewhere")
        monkeypatch.setenv("WEBHOOK_SECRET", owner.endpoint.secret.reveal())
        log = tmp_path / "log"
        with hosting("successor_receiver", conninfo, log) as host, Client(HOST, host.port) as client:
            body = {"type": "key.successor_created", "data": {"lineage_id": owner.key.id, "key": owner.key.secret}}
            forged = {"webhook-id": "1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,Zm9yZ2Vk"}
            assert client.request("POST", PATH, body, headers=forged).status == 401
            assert list(keys.iterdir()) == []
            owner.moves_to(f"http://{HOST}:{host.port}{PATH}")
            owner.run()
            assert owner.errors() == []
            eventually((keys / owner.key.id).exists, "the key is put to use")
            assert owner.story()[-1] == "rotation.successor_created"
        (successor_id,) = owner.live_successors()
        successor = back.core.ledger.load(ApiKey, successor_id)
        (file,) = keys.iterdir()
        assert (file.name, file.stat().st_mode & 0o777) == (owner.key.id, 0o600)
        secret = file.read_text(encoding="ascii")
        assert (secret.startswith(successor.prefix), successor.status(back.origin().at)) == (True, KeyStatus.ACTIVE)
        assert secret not in log.read_text(encoding="utf-8")
        assert other.hits() == []
        with serving(conninfo, tmp_path / "server") as server, server.client(secret) as client:
            assert client.get("/api/campaigns").status == 200
