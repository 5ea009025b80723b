"""Webhooks sent: one POST over a connection of its own, to an address that was looked at, bounded in every direction.

The name is resolved once, every address of the answer must be permitted, and the connection goes to one of these very
addresses, under the name's own TLS identity and `Host`. No proxy of the environment, no redirect, no decoding, and of
an answer no more than its head and a few kilobytes, which are thrown away.
"""

import socket
import ssl
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final

import httpcore

from application.webhook_delivery import Answered, Unanswered
from domain.destination import Address, Destinations, WebhookUrl

BODY_BYTES_MAX: Final = 4096
BODY_SECONDS: Final = 1.0
ADDRESSES_TRIED_MAX: Final = 3
CONNECT_SECONDS: Final = 5.0
RESOLVE_SECONDS: Final = 5.0
USER_AGENT: Final = "Keyledger-Webhooks/1"

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[str, int, float], socket.socket]


class _RefusedError(Exception):
    """No connection is made; the message says why."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system finds them; OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """A TCP connection to that address; OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    line = socket.socket(family, socket.SOCK_STREAM)
    try:
        line.settimeout(seconds)
        line.connect((address, port))
    except BaseException:
        line.close()
        raise
    return line


class _Line(httpcore.NetworkStream):
    """A connected socket that is read and written until one deadline, however slowly its peer goes on."""

    def __init__(self, line: socket.socket, deadline: float) -> None:
        self.line = line
        self.deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        with self._in_time(httpcore.ReadTimeout, httpcore.ReadError):
            return self.line.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        with self._in_time(httpcore.WriteTimeout, httpcore.WriteError):
            self.line.sendall(buffer)

    def close(self) -> None:
        self.line.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        del timeout
        with self._in_time(httpcore.ConnectTimeout, httpcore.ConnectError):
            # Ours before its handshake, which whoever breaks this off must reach: the plain socket is empty by then.
            self.line = ssl_context.wrap_socket(
                self.line, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            try:
                self.line.do_handshake()  # takes the socket's timeout for the whole of it
            except BaseException:
                self.close()
                raise
        return self

    def get_extra_info(self, info: str) -> Any:
        del info

    @contextmanager
    def _in_time(self, too_late: type[Exception], broken: type[Exception]) -> Generator[None]:
        remaining = self.deadline - monotonic()
        if remaining <= 0:
            raise too_late("too slow")
        try:
            self.line.settimeout(remaining)
            yield
        except TimeoutError as error:
            raise too_late("too slow") from error
        except OSError as error:
            raise broken(_words(error)) from error


@dataclass
class _Way(httpcore.NetworkBackend):
    """The way of one request: to the first of its addresses that takes the connection."""

    addresses: Sequence[str]
    connect: Connect
    deadline: float
    lines: list[_Line] = field(default_factory=list[_Line])
    broken_off: bool = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del host, timeout, local_address, socket_options
        until = min(self.deadline, monotonic() + CONNECT_SECONDS)
        failure = "no connection"
        tried = self.addresses[:ADDRESSES_TRIED_MAX]
        for number, address in enumerate(tried):
            remaining = until - monotonic()
            if remaining <= 0 or self.broken_off:
                break
            try:
                # A share for each that is left: one that swallows what is sent to it would leave the others no time.
                line = _Line(self.connect(address, port, remaining / (len(tried) - number)), self.deadline)
            except OSError as error:
                failure = _words(error)
                continue
            self.lines.append(line)
            if self.broken_off:  # while it connected, when there was no line yet to be shut
                line.close()
                break
            return line
        raise httpcore.ConnectError(failure)

    def interrupt(self) -> None:
        self.broken_off = True
        for line in self.lines:
            with suppress(OSError):
                # The socket's own, also under TLS: whoever waits on it goes on at once.
                socket.socket.shutdown(line.line, socket.SHUT_RDWR)


class WebhookClient:
    """The port `WebhookSender`. ``total`` bounds everything after the name is resolved."""

    def __init__(
        self,
        destinations: Destinations,
        *,
        total: timedelta,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = resolve,
        connect: Connect = connect,
    ) -> None:
        self._destinations = destinations
        self._total = total.total_seconds()
        self._tls = ssl.create_default_context() if tls is None else tls
        self._resolve = resolve
        self._connect = connect
        self._lock = Lock()
        self._under_way: list[_Way] = []

    def post(self, url: WebhookUrl, headers: Mapping[str, str], body: bytes) -> Answered | Unanswered:
        """One POST; why there was no answer in words that hold nothing of the answer, nor of an address."""
        try:
            addresses = self._addresses(url)
        except _RefusedError as error:
            return Unanswered(str(error))
        way = _Way(addresses, self._connect, monotonic() + self._total)
        with self._lock:
            self._under_way.append(way)
        try:
            return self._ask(way, url, headers, body)
        except (httpcore.TimeoutException, TimeoutError):
            return Unanswered("the receiver was too slow")
        except httpcore.NetworkError as error:
            return Unanswered(f"the connection failed: {error}")
        except httpcore.ProtocolError:
            return Unanswered("the answer was not HTTP, or its head was too long")
        finally:
            with self._lock:
                self._under_way.remove(way)

    def interrupt(self) -> None:
        """Breaks off what is under way; what is only now resolving its name ends by itself."""
        with self._lock:
            ways = list(self._under_way)
        for way in ways:
            way.interrupt()

    def _ask(self, way: _Way, url: WebhookUrl, headers: Mapping[str, str], body: bytes) -> Answered:
        sent = {
            "Host": url.authority,
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        where = httpcore.URL(
            scheme=url.scheme.encode("ascii"),
            host=url.host.encode("ascii"),
            port=url.port,
            target=url.target.encode("ascii"),
        )
        with (
            httpcore.ConnectionPool(ssl_context=self._tls, network_backend=way, retries=0) as pool,
            pool.stream("POST", where, headers=list(sent.items()), content=body) as response,
        ):
            told = {name.lower(): value for name, value in response.headers}
            answer = Answered(response.status, _text(told.get(b"retry-after")))
            _drain(way, response)
        return answer

    def _addresses(self, url: WebhookUrl) -> list[str]:
        literal = url.address
        texts = [str(literal)] if literal is not None else self._resolved(url)
        found: list[Address] = []
        for text in texts:
            try:
                found.append(ip_address(text.partition("%")[0]))
            except ValueError:
                raise _RefusedError("the name has an address that cannot be read") from None
        if not found:
            raise _RefusedError("the name has no address")
        if not all(map(self._destinations.permits, found)):
            raise _RefusedError("the address is private or reserved, so no connection was made")
        if url.scheme == "http" and not all(map(self._destinations.is_allowed, found)):
            raise _RefusedError("http is for allowed networks alone, so no connection was made")
        return [str(each) for each in found]

    def _resolved(self, url: WebhookUrl) -> Sequence[str]:
        # The system's resolver takes as long as it likes: its thread is one that nobody waits for at the end.
        answers: SimpleQueue[Sequence[str] | OSError | UnicodeError] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(url.host, url.port))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        Thread(target=ask, name="resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=RESOLVE_SECONDS)
        except Empty:
            raise _RefusedError("the name was not resolved in time") from None
        if isinstance(answer, OSError | UnicodeError):
            raise _RefusedError("the name cannot be resolved") from answer
        return answer


def _drain(way: _Way, response: httpcore.Response) -> None:
    """Takes what a decent receiver sends, so that it does not see its connection reset; the status stands already."""
    for line in way.lines:
        line.deadline = min(line.deadline, monotonic() + BODY_SECONDS)
    taken = 0
    with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        for chunk in response.iter_stream():
            taken += len(chunk)
            if taken >= BODY_BYTES_MAX:
                return


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the certificate is not valid for this name"
    if isinstance(error, ssl.SSLError):
        return "no TLS could be agreed on"
    known: dict[type[OSError], str] = {
        ConnectionRefusedError: "refused",
        ConnectionResetError: "reset by the receiver",
        BrokenPipeError: "closed by the receiver",
        TimeoutError: "timed out",
    }
    return known.get(type(error), "unreachable")
