"""Answers ahead of the event loop: whether the pinned server still can be made to give them, and what is left to it."""

import http.client
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.kit.http_answers import ANSWER_SECONDS, HOST
from tests.kit.http_server import STOP_SECONDS, HttpServer
from tests.kit.service import CHECKOUT, eventually, free_port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where `tests.kit.ahead` is served."""
    port = free_port()
    log = tmp_path_factory.mktemp("ahead") / "log"
    command = [sys.executable, "-m", "granian", "tests.kit.ahead:app", "--factory", "--interface", "asgi"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        eventually(lambda: "Started worker-1" in log.read_text(encoding="utf-8"), "the server answers")
        yield port
        process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def said(connection: http.client.HTTPConnection, path: str) -> str:
    """The body of an answer with status 200."""
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    assert answer.status == 200, body
    return body


def test_answers_ahead_and_behind_come_in_turn(port: int) -> None:
    """On one connection: at once, from the loop that it was told of, by the application, and after a fault."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    paths = {"/ahead": "ahead", "/later": "later", "/else": "the loop", "/fault": "the loop"}
    for _ in range(3):
        assert {path: said(connection, path) for path in paths} == paths
    connection.close()


def test_the_service_answers_ahead(server: HttpServer) -> None:
    """The pinned server can be made to; where it cannot, the service says so and goes on."""
    assert "no_answers_ahead" not in server.log.read_text(encoding="utf-8")
