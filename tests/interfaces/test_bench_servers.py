"""The servers that `ops/bench` measures: they are made of the service's parts, and break where those change."""

from pathlib import Path

import pytest

from tests.kit.http_server import serving

ROWS = "SELECT endpoint, status FROM usage.access_log WHERE endpoint = '/'"


@pytest.mark.parametrize(("application", "rows"), [("keyledger", [("/", 200)]), ("unlogged", [])])
def test_the_measured_server_checks_the_key_and_leaves_its_row(
    conninfo: str, tmp_path: Path, application: str, rows: list[tuple[str, int]]
) -> None:
    """The route under test asks for a key, the one beside it does not; only the log that drops its rows leaves none."""
    program = ("ops/bench/serve.py", application)
    with serving(conninfo, tmp_path / "log", program=program, access_log_durability="buffered") as server:
        key = server.back.key(server.back.account())
        with server.client() as client:
            assert client.get("/open").told()[2] == b'{"ok":true}'
        with server.client(key.secret) as client:
            assert client.get("/").told()[::2] == (200, b'{"ok":true}')
            assert client.get("/auth/forward").status == 200
    assert server.rows(ROWS) == rows
    assert not server.troubles()
