"""`/metrics`: every request of every process counted, told to those who are near, and nothing that names anybody."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from infrastructure.postgres.metrics import HELP
from tests.kit.http_server import HttpServer, serving
from tests.kit.service import eventually

ASK = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def scraped(server: HttpServer) -> dict[str, float]:
    """The series and their values, as Prometheus asks for them."""
    (heard,) = server.hear(ASK)
    assert heard.status == 200
    assert heard.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line.rsplit(" ", 1) for line in heard.body.decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in lines}


@pytest.mark.parametrize("durability", ["commit", "buffered"])
def test_any_process_answers_for_all(conninfo: str, tmp_path: Path, durability: str) -> None:
    """Two serving processes: the same counts from both, each request once, by route, status and true outcome."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serving(conninfo, tmp_path / name, access_log_durability=durability))
            for name in ("one", "two")
        ]
        key = servers[0].back.key(servers[0].back.account())
        clients = [stack.enter_context(server.client(key.secret)) for server in servers]
        for client in clients:
            for _ in range(3):
                assert client.get("/auth/forward").status == 200
                assert client.get(key.path).status == 200
            assert client.get("/auth/forward", key="x").status == 401
        expected = {
            'keyledger_requests_total{route="/auth/forward",status="200",outcome="ok"}': 6,
            'keyledger_requests_total{route="/auth/forward",status="401",outcome="malformed"}': 2,
            'keyledger_requests_total{route="/api/keys/{key_id}",status="200",outcome="ok"}': 6,
            'keyledger_request_seconds_count{route="/auth/forward"}': 8,
            "keyledger_key_hits_total": 10,
            "keyledger_key_lookups_total": 2,
            "keyledger_cached_keys": 2,
            "keyledger_processes": 2,
            "keyledger_leaders": 0,
        }
        for server in servers:
            eventually(lambda server=server: expected.items() <= scraped(server).items(), "all is counted")
        told = scraped(servers[0])
        assert 0 < told["keyledger_lease_seconds"] <= 2
        assert told["keyledger_partitions_ahead"] == 7
        assert not [series for series in told if key.id in series or key.account_id in series]


def test_every_metric_has_its_help_and_no_other_is_told(server: HttpServer) -> None:
    """What a scrape has is on the list."""
    names = {series.partition("{")[0] for series in scraped(server)}
    histograms = [name for name, (kind, _) in HELP.items() if kind == "histogram"]
    known = set(HELP) | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    assert names <= known
    assert server.troubles() == []


def test_what_a_revoke_waited_is_counted(conninfo: str, tmp_path: Path) -> None:
    """Each change that waits for the processes is in the histogram once, with its seconds."""
    with serving(conninfo, tmp_path / "log") as own, own.client() as client:
        account = own.back.account()
        owner, keys = own.back.key(account), [own.back.key(account) for _ in range(3)]
        waited = [client.post(f"{key.path}/revoke", key=owner.secret).json["receipt"]["waited_ms"] for key in keys]
        name = "keyledger_change_wait_seconds"
        expected = {f"{name}_count": 3, f'{name}_bucket{{le="+Inf"}}': 3}
        eventually(lambda: expected.items() <= scraped(own).items(), "all is counted")
        assert abs(scraped(own)[f"{name}_sum"] * 1000 - sum(waited)) <= len(keys)


SIGNS_OF_A_PROXY = [
    *("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"),
    *("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Server"),
]


@pytest.mark.parametrize("name", SIGNS_OF_A_PROXY)
def test_a_proxy_does_not_show_them_to_the_world(server: HttpServer, name: str) -> None:
    """A request that a proxy has left its sign in, whichever, is told that there is no such path."""
    (heard,) = server.hear(ASK.removesuffix(b"\r\n") + f"{name}: 203.0.113.9\r\n\r\n".encode())
    assert heard.status == 404
    assert scraped(server)


def test_other_networks_than_those_named_are_told_nothing(conninfo: str, tmp_path: Path) -> None:
    """The peer's own address counts."""
    with serving(conninfo, tmp_path / "log", metrics_networks="10.0.0.0/8") as own:
        (heard,) = own.hear(ASK)
        assert heard.status == 404
