"""`keyledger webhook`, as an operator meets it: the real command, a whole life of one endpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from domain.access import Plan
from domain.webhook_endpoint import DisabledReason, GivenUpDelivery, WebhookEndpoint
from interfaces.cli.exits import Exit
from tests.kit.http_server import ROOT_SECRET, HttpServer

COMMAND = Path(sys.executable).with_name("keyledger")
SECONDS_MAX = 120
URL = "https://hooks.acme.example/keyledger"


class Operated:
    """The command on the server's database."""

    def __init__(self, server: HttpServer) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        own = {"KEYLEDGER_DATABASE_URL": server.conninfo, "KEYLEDGER_SECRET_KEYS": ROOT_SECRET}
        self._environment = given | own

    def run(self, *words: str, code: Exit = Exit.OK) -> subprocess.CompletedProcess[str]:
        """Runs `keyledger webhook` to its end, which must be that."""
        return self.keyledger("webhook", *words, code=code)

    def keyledger(self, *words: str, code: Exit = Exit.OK) -> subprocess.CompletedProcess[str]:
        """Runs `keyledger` to its end, which must be that."""
        done = subprocess.run(
            [COMMAND, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS_MAX,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def json(self, *words: str) -> Any:
        """The object that the command writes."""
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture
def operated(server: HttpServer) -> Operated:
    return Operated(server)


def test_an_endpoints_life_at_the_command_line(server: HttpServer, operated: Operated) -> None:
    """Created with its secret alone on stdout, shown without, changed, tested, its secret rotated, deleted."""
    account = server.back.account()
    made = operated.run("create", "--account", account, "--url", URL, "--event", "key.*", "--event", "invite.redeemed")
    assert made.stdout.startswith("whsec_")
    webhook = operated.json("list", "--account", account)["data"][0]
    assert (webhook["url"], webhook["events"]) == (URL, ["invite.redeemed", "key.*"])
    webhook_id = webhook["id"]
    assert webhook_id in made.stderr
    assert operated.json("show", webhook_id) == webhook
    changed = operated.json("change", webhook_id, "--event", "*", "--description", "rota")
    assert changed == webhook | {"events": ["*"], "description": "rota"}
    rotated = operated.run("rotate-secret", webhook_id, "--grace-seconds", "60")
    assert rotated.stdout.startswith("whsec_")
    assert rotated.stdout != made.stdout
    promised = operated.json("test", webhook_id)
    assert (promised["type"], promised["status"]) == ("webhook.test", "pending")
    assert operated.json("deliveries", webhook_id) == {"data": [], "next_cursor": None}  # nothing delivers here
    operated.run("delete", webhook_id)
    for verb in ("show", "test", "deliveries", "delete"):
        operated.run(verb, webhook_id, code=Exit.NOT_FOUND)


def test_what_cannot_be_is_refused(server: HttpServer, operated: Operated) -> None:
    """A private address, an unknown event type, an id and a delivery that are none, a plan without webhooks."""
    account = server.back.account()
    create = ("create", "--account", account, "--url")
    operated.run(*create, "https://127.0.0.1/", "--event", "*", code=Exit.REFUSED)
    operated.run(*create, URL, "--event", "key.nothing", code=Exit.REFUSED)
    operated.run("show", "whe_", code=Exit.NOT_FOUND)
    operated.run(*create, URL, "--event", "*")
    webhook_id = operated.json("list", "--account", account)["data"][0]["id"]
    operated.run("retry", webhook_id, "msg_0000000000000000000000", code=Exit.NOT_FOUND)
    operated.run("rotate-secret", webhook_id, "--grace-seconds", "-1", code=Exit.REFUSED)
    free = server.back.account(Plan.FREE)
    refused = operated.run("create", "--account", free, "--url", URL, "--event", "*", code=Exit.REFUSED)
    assert "plan (free) has no webhooks" in refused.stderr


def test_a_failing_webhook_is_a_process_that_can_be_seen(server: HttpServer, operated: Operated) -> None:
    """`workflow list` and `show` tell how it ended; the webhook says why it is disabled."""
    account = server.back.account()
    operated.run("create", "--account", account, "--url", URL, "--event", "*")
    webhook_id = operated.json("list", "--account", account)["data"][0]["id"]
    lost = GivenUpDelivery(DisabledReason.GONE, "msg_0000000000000000000001", 1, 410, "it says that it is gone")
    by = server.back.origin()
    server.back.core.ledger.change(WebhookEndpoint, webhook_id, lambda each: each.give_up(lost, after=0, by=by))
    operated.keyledger("jobs", "run", "workflow")
    listing = operated.keyledger("workflow", "list", "--workflow", "webhook_failure", "--json")
    (process,) = [each for each in json.loads(listing.stdout)["data"] if each["subject"] == webhook_id]
    assert (process["workflow"], process["state"], process["step"]) == ("webhook_failure", "ended", "closed")
    assert json.loads(operated.keyledger("workflow", "show", process["id"], "--json").stdout) == process
    assert operated.json("show", webhook_id)["disabled_reason"] == "gone"


def test_the_webhook_that_is_handed_over_successors_is_chosen(server: HttpServer) -> None:
    """One of the account's own, or none; another account's is unknown."""
    operated = Operated(server)

    def an_account(plan: str) -> str:
        words = ("account", "create", "--name", "Acme", "--email", "ops@acme.example", "--plan", plan)
        return operated.keyledger(*words).stdout.strip()

    account, other, free = an_account("team"), an_account("team"), an_account("free")
    made = operated.run("create", "--account", account, "--url", URL, "--event", "key.*", "--json")
    endpoint = json.loads(made.stdout)["id"]
    for wanted, expected in ((endpoint, endpoint), ("none", None)):
        told = operated.keyledger("account", "hand-over", account, wanted, "--json").stdout
        assert json.loads(told)["hand_over_to"] == expected
    operated.keyledger("account", "hand-over", other, endpoint, code=Exit.NOT_FOUND)
    operated.keyledger("account", "hand-over", free, endpoint, code=Exit.REFUSED)
    operated.keyledger("account", "hand-over", account, "elsewhere", code=Exit.REFUSED)
    operated.run("change", endpoint, "--status", "disabled")
    operated.keyledger("account", "hand-over", account, endpoint, code=Exit.REFUSED)
