"""The reverse proxies of `ops/proxies`, for real, between a client, Keyledger and a service that tells what it got."""

import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, cast

import psutil

from tests.kit.service import CHECKOUT, HOST, eventually, free_port

CONFIGURATIONS = CHECKOUT / "ops" / "proxies"
STOP_SECONDS = 20
ANSWER_SECONDS = 45
"""More than any configuration lets its proxy wait for Keyledger, less than nginx and Caddy wait by themselves."""
IDENTITY = ("x-keyledger-key-id", "x-keyledger-account-id", "x-keyledger-environment", "x-keyledger-scopes")
FILES = {"nginx": "nginx.conf", "caddy": "Caddyfile", "traefik": "traefik.yaml", "envoy": "envoy.yaml"}
# The master process would change its user and look for directories of the system's.
NGINX = """\
daemon off;
master_process off;
pid {place}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/client_body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    include {configuration};
}}
"""
CADDY = """\
{{
\tadmin off
}}
import {configuration}
"""

Lines = Sequence[tuple[str, str | bytes]]
_clients = count(2)


def another_client() -> str:
    """An address of this machine that no other caller has had."""
    number = next(_clients)
    return f"127.0.{number >> 8}.{number & 255}"


@dataclass(frozen=True, slots=True)
class Got:
    """An answer; header names in lower case, in the order and number that they came in."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header's one value; None when it is absent."""
        values = [value for given, value in self.headers if given == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def seen(self) -> "Seen":
        """What the service saw of the request, which must have passed."""
        assert self.status == 200, self
        return Seen(**json.loads(self.body))


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came to the service: the header lines as they were sent, the body's length."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int

    @property
    def identity(self) -> dict[str, list[str]]:
        """All that a service may take for Keyledger's word: by name, as CGI and WSGI read names; empty ones left out.

        nginx does not send an empty header at all, the others do.
        """
        found: dict[str, list[str]] = {}
        for name, value in self.headers:
            plain = name.lower().replace("_", "-")
            if "keyledger" in plain and value:
                found.setdefault(plain, []).append(value)
        return found

    def values(self, name: str) -> list[str]:
        """The header's values, read as `identity` does."""
        return [value for given, value in self.headers if given.lower().replace("_", "-") == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        chunked = self.headers.get("transfer-encoding") is not None
        length = int(self.headers.get("content-length") or 0)
        body = b"".join(iter(self._chunk, b"")) if chunked else self.rfile.read(length)
        cast("EchoService", self.server).asked += 1
        content = json.dumps(
            {"method": self.command, "target": self.path, "headers": self.headers.items(), "body_bytes": len(body)}
        ).encode()
        self.send_response(int(self.headers.get("x-answer") or 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _chunk(self) -> bytes:
        chunk = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return chunk

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that is overridden
        del format, args


class EchoService(ThreadingHTTPServer):
    """What is behind the proxies: it answers with what it was asked; ``asked`` says how often.

    A request's ``X-Answer`` is the status that it answers with.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, free_port()), _Handler)
        self.asked = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_address[1]


@contextmanager
def echo_service() -> Iterator[EchoService]:
    """A running one."""
    with EchoService() as service:
        thread = Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    name: str
    port: int
    pid: int

    def ask(  # noqa: PLR0913 - a request has so many parts
        self,
        key: str | None = None,
        *,
        method: str = "GET",
        path: str = "/",
        lines: Lines = (),
        body: bytes | None = None,
        client: str | None = None,
    ) -> Got:
        """One request on a connection of its own, from a ``client`` address: another one each time when None."""
        connection = http.client.HTTPConnection(
            HOST, self.port, timeout=ANSWER_SECONDS, source_address=(client or another_client(), 0)
        )
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            if key is not None:
                connection.putheader("Authorization", f"Bearer {key}")
            for name, value in lines:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            headers = tuple((name.lower(), value) for name, value in response.getheaders())
            return Got(response.status, headers, response.read())
        finally:
            connection.close()

    def connections_to(self, port: int) -> set[int]:
        """The proxy's own ports of its open connections to that port of this machine."""
        process = psutil.Process(self.pid)
        return {
            connection.laddr.port
            for each in (process, *process.children(recursive=True))
            for connection in each.net_connections("tcp4")
            if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == port
        }

    def passes(self, key: str) -> bool:
        """Whether a request with that key reaches the service."""
        return self.ask(key).status == 200

    def refuses(self, key: str) -> bool:
        """Whether it does not."""
        return not self.passes(key)


def program(name: str) -> str | None:
    """Where the proxy's program is; None when it is not installed. Debian keeps nginx off an ordinary user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@contextmanager
def proxying(name: str, place: Path, *, keyledger: int, service: EchoService) -> Iterator[Proxy]:
    """The proxy with its file of `ops/proxies`, in which the ports alone are other ones."""
    path = program(name)
    assert path is not None, f"{name} is not installed"
    port = free_port()
    configuration = place / "configuration" / FILES[name]
    configuration.parent.mkdir(parents=True)
    text = (CONFIGURATIONS / FILES[name]).read_text(encoding="utf-8")
    for documented, ours in ((8000, keyledger), (9000, service.port), (8080, port)):
        text = text.replace(f"{HOST}:{documented}", f"{HOST}:{ours}")
        text = text.replace(f"{HOST}, port_value: {documented}", f"{HOST}, port_value: {ours}")
    configuration.write_text(text, encoding="utf-8")
    command = [path, *_arguments(name, place, configuration, port)]
    environment = os.environ | {"HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)}
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        eventually(lambda: _listens(process, port, log), f"{name} listens")
        yield Proxy(name, port, process.pid)
        assert process.poll() is None, f"{name} ended:\n{log.read_text(encoding='utf-8')}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _arguments(name: str, place: Path, configuration: Path, port: int) -> list[str]:
    main = place / "main"
    if name == "nginx":
        main.write_text(NGINX.format(place=place, configuration=configuration), encoding="utf-8")
        return ["-p", str(place), "-c", str(main), "-e", "stderr"]
    if name == "caddy":
        main.write_text(CADDY.format(configuration=configuration), encoding="utf-8")
        return ["run", "--config", str(main), "--adapter", "caddyfile"]
    if name == "traefik":
        quiet = ["--global.checknewversion=false", "--global.sendanonymoususage=false"]
        return [*quiet, f"--entrypoints.web.address={HOST}:{port}", f"--providers.file.filename={configuration}"]
    return ["-c", str(configuration), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]


def _listens(process: "subprocess.Popen[bytes]", port: int, log: Path) -> bool:
    assert process.poll() is None, f"the proxy ended:\n{log.read_text(encoding='utf-8')}"
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
