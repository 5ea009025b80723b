"""Webhooks sent: to addresses that may be reached alone, in bounded time and memory, whatever the receiver does."""

import resource
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from application.webhook_delivery import Answered, Unanswered
from domain.destination import Destinations, MalformedUrlError, WebhookUrl
from infrastructure.webhook_client import BODY_BYTES_MAX, WebhookClient, connect
from tests.kit.service import eventually
from tests.kit.webhooks import Listener, WebhookReceiver, listening

TOTAL = timedelta(seconds=3)
LOOPBACK = Destinations((ip_network("127.0.0.0/8"),))
MEGABYTE = 2**20
READ_BYTES = 2**16
"""The most that the HTTP client reads at a time."""


class Roads:
    """The function that connects, remembering where to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []

    def __call__(self, address: str, port: int, seconds: float) -> socket.socket:
        """Connects."""
        self.taken.append((address, port))
        return connect(address, port, seconds)


class Names:
    """A resolver whose answer changes each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        """The next answer; the last one again and again."""
        del host, port
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return answer


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookReceiver]:
    with WebhookReceiver(tmp_path_factory.mktemp("receiver")) as running:
        yield running


def post(client: WebhookClient, url: str) -> Answered | Unanswered:
    return client.post(WebhookUrl(url), {"content-type": "application/json"}, b"{}")


FORBIDDEN_HOSTS = [
    "127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]",  # noqa: S104 - refused
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "10.0.0.1", "172.16.0.1", "192.168.0.1",
    "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    # Refused as URLs as well; here as somebody would find them who had written them past that check.
    "2130706433", "0177.0.0.1", "0x7f000001", "0x7f.1", "127.1",
]  # fmt: skip
UNUSUAL = [*FORBIDDEN_HOSTS[-5:], "user@127.0.0.1", "a:b@127.0.0.1", "hooks.acme.example@127.0.0.1"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_nothing_is_connected_to_that_is_not_public(listener: Listener, scheme: str, host: str) -> None:
    """No socket is opened to any such address, in any form, and the real listener there hears nothing."""
    roads = Roads()
    answer = post(WebhookClient(Destinations(), total=TOTAL, connect=roads), f"{scheme}://{host}:{listener.port}/")
    assert isinstance(answer, Unanswered)
    listener.close()
    assert (roads.taken, listener.accepted) == ([], 0)


REBOUND = [
    [["127.0.0.1"]],
    [["93.184.215.14", "127.0.0.1"]],
    [["::ffff:127.0.0.1"]],
    [["64:ff9b::7f00:1", "93.184.215.14"]],
    [["fe80::1%lo"]],
    [[]],
    [["not an address"]],
]


@pytest.mark.parametrize("answers", REBOUND, ids=repr)
def test_one_private_address_among_those_of_a_name_is_enough(listener: Listener, answers: list[list[str]]) -> None:
    """A name with any address that is not public is not connected to at all."""
    roads = Roads()
    client = WebhookClient(Destinations(), total=TOTAL, connect=roads, resolve=Names(*answers))
    assert isinstance(post(client, f"https://hooks.acme.example:{listener.port}/"), Unanswered)
    listener.close()
    assert (roads.taken, listener.accepted) == ([], 0)


def test_a_name_that_changes_its_address_is_looked_up_once(listener: Listener) -> None:
    """The connection goes to the address that was looked at, not to what the name says a moment later."""
    names, roads = Names(["93.184.215.14"], ["127.0.0.1"]), []

    def refused(address: str, port: int, _: float) -> socket.socket:
        roads.append((address, port))
        raise ConnectionRefusedError

    client = WebhookClient(Destinations(), total=TOTAL, resolve=names, connect=refused)
    assert post(client, f"https://hooks.acme.example:{listener.port}/") == Unanswered("the connection failed: refused")
    assert names.asked == 1
    assert roads == [("93.184.215.14", listener.port)]
    assert isinstance(post(client, f"https://hooks.acme.example:{listener.port}/"), Unanswered)
    listener.close()
    assert (len(roads), listener.accepted) == (1, 0)


class ClosedRoads(Roads):
    """Nobody takes a connection; ``at_each`` is done at each attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.at_each: Callable[[], None] = lambda: None

    def __call__(self, address: str, port: int, seconds: float) -> socket.socket:
        """Is refused."""
        del seconds
        self.taken.append((address, port))
        self.at_each()
        raise ConnectionRefusedError


def test_no_more_than_three_addresses_of_a_name_are_tried() -> None:
    """In the order that the name has them."""
    roads, addresses = ClosedRoads(), [f"8.8.8.{number}" for number in range(1, 5)]
    client = WebhookClient(Destinations(), total=TOTAL, resolve=Names(addresses), connect=roads)
    assert post(client, "https://hooks.acme.example/") == Unanswered("the connection failed: refused")
    assert roads.taken == [(address, 443) for address in addresses[:3]]


class SwallowingRoads(Roads):
    """One address swallows what is sent to it, until the time for it is over; the others take connections."""

    def __init__(self, swallowing: str) -> None:
        super().__init__()
        self._swallowing = swallowing
        self.given: list[float] = []

    def __call__(self, address: str, port: int, seconds: float) -> socket.socket:
        """Connects, or times out."""
        self.given.append(seconds)
        if address != self._swallowing:
            return super().__call__(address, port, seconds)
        Event().wait(seconds)
        raise TimeoutError


def test_an_address_that_swallows_all_leaves_the_others_their_time(receiver: WebhookReceiver) -> None:
    """The first of two has half of the time, and the second the other half, or what is left of it."""
    roads = SwallowingRoads("127.0.0.9")
    client = WebhookClient(LOOPBACK, total=TOTAL, resolve=Names(["127.0.0.9", "127.0.0.1"]), connect=roads)
    assert post(client, f"http://hooks.acme.example:{receiver.port}/200") == Answered(200, None)
    first, second = roads.given
    half = TOTAL.total_seconds() / 2
    assert 0 < second <= half >= first > half / 2


def test_what_is_broken_off_while_it_connects_tries_no_other_address() -> None:
    """A stop does not wait for a name's other addresses."""
    roads, names = ClosedRoads(), Names(["8.8.8.1", "8.8.8.2"])
    client = WebhookClient(Destinations(), total=TOTAL, resolve=names, connect=roads)
    roads.at_each = client.interrupt
    assert post(client, "https://hooks.acme.example/") == Unanswered("the connection failed: refused")
    assert roads.taken == [("8.8.8.1", 443)]


def test_what_is_broken_off_in_its_connect_sends_nothing(receiver: WebhookReceiver) -> None:
    """The connection that was made all the same is closed, and no other address is tried."""
    roads: list[str] = []

    def broken_off(address: str, port: int, seconds: float) -> socket.socket:
        roads.append(address)
        line = connect(address, port, seconds)
        client.interrupt()
        return line

    client = WebhookClient(LOOPBACK, total=TOTAL, resolve=Names(["127.0.0.1", "127.0.0.2"]), connect=broken_off)
    answer = post(client, f"http://hooks.acme.example:{receiver.port}/broken-off")
    assert answer == Unanswered("the connection failed: no connection")
    assert (roads, receiver.hits("/broken-off")) == (["127.0.0.1"], [])


def test_a_stop_breaks_off_a_handshake_that_nobody_answers() -> None:
    """A receiver that takes the connection and is silent holds up nobody for the attempt's whole time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = WebhookClient(LOOPBACK, total=timedelta(minutes=1))
        answers: list[Answered | Unanswered] = []
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        thread = Thread(target=lambda: answers.append(post(client, url)), daemon=True)
        thread.start()
        line, _ = silent.accept()
        with line:
            assert line.recv(1) == b"\x16"  # the handshake has begun, and is never answered
            client.interrupt()
            thread.join(timeout=5)
    assert answers == [Unanswered("the connection failed: no TLS could be agreed on")]


class CountingLine(socket.socket):
    """A socket that counts what is read from it."""

    taken = 0

    def recv(self, *arguments: Any) -> bytes:
        """As ever."""
        chunk = super().recv(*arguments)
        self.taken += len(chunk)
        return chunk


def test_of_an_endless_answer_no_more_is_read_than_a_few_kilobytes(receiver: WebhookReceiver) -> None:
    """So many that a decent receiver sees its connection closed and not reset; then it is left."""
    lines: list[CountingLine] = []

    def count(address: str, port: int, seconds: float) -> socket.socket:
        line = CountingLine(fileno=connect(address, port, seconds).detach())
        lines.append(line)
        return line

    client = WebhookClient(LOOPBACK, total=TOTAL, connect=count)
    assert post(client, receiver.url("/huge")) == Answered(200, None)
    [line] = lines
    assert BODY_BYTES_MAX <= line.taken < BODY_BYTES_MAX + 2 * READ_BYTES


def test_redirects_are_not_followed(receiver: WebhookReceiver, listener: Listener) -> None:
    """A permitted receiver that points to a private address: its own status, and no second connection."""
    roads = Roads()
    client = WebhookClient(LOOPBACK, total=TOTAL, connect=roads)
    target = f"http://localhost:{listener.port}/"
    assert post(client, receiver.url(f"/301?to={target}")) == Answered(301, None)
    listener.close()
    assert (roads.taken, listener.accepted) == ([("127.0.0.1", receiver.port)], 0)


def test_http_is_for_allowed_networks(receiver: WebhookReceiver) -> None:
    """A public address is not sent anything in the clear, an allowed one is."""
    roads = Roads()
    client = WebhookClient(LOOPBACK, total=TOTAL, connect=roads, resolve=Names(["93.184.215.14"]))
    refused = Unanswered("http is for allowed networks alone, so no connection was made")
    assert (post(client, "http://hooks.acme.example/"), roads.taken) == (refused, [])
    assert post(client, receiver.url("/200")) == Answered(200, None)


def test_proxies_of_the_environment_are_not_asked(
    receiver: WebhookReceiver, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment says of proxies is for other programs."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    assert post(WebhookClient(LOOPBACK, total=TOTAL), receiver.url("/200")) == Answered(200, None)
    listener.close()
    assert listener.accepted == 0


def test_the_head_is_what_a_receiver_needs(receiver: WebhookReceiver) -> None:
    """One `Host`, no encoding asked for, and the length of the body."""
    client = WebhookClient(LOOPBACK, total=TOTAL, resolve=Names(["127.0.0.1"]))
    post(client, f"http://hooks.acme.example:{receiver.port}/whose")
    headers = receiver.hits("/whose")[0]["headers"]
    assert headers == {
        "host": f"hooks.acme.example:{receiver.port}",
        "user-agent": "Keyledger-Webhooks/1",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-type": "application/json",
        "content-length": "2",
    }


BAD = [
    ("/500", Answered(500, None)),
    ("/410", Answered(410, None)),
    ("/429?after=120", Answered(429, "120")),
    ("/drip", Answered(200, None)),
    ("/huge", Answered(200, None)),
    ("/bomb", Answered(200, None)),
    ("/drip-head", Unanswered("the receiver was too slow")),
    ("/head", Unanswered("the answer was not HTTP, or its head was too long")),
]


@pytest.mark.parametrize(("path", "answer"), BAD, ids=[path for path, _ in BAD])
def test_a_bad_receiver_costs_little(receiver: WebhookReceiver, path: str, answer: Answered | Unanswered) -> None:
    """The answer is its status, or that there was none; a gigabyte and a bomb of 100 MB take no memory to speak of."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert post(WebhookClient(LOOPBACK, total=TOTAL), receiver.url(path)) == answer
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 16 * MEGABYTE


@pytest.mark.parametrize("path", ["/drip-head", "/drip"])
def test_what_is_under_way_can_be_broken_off(receiver: WebhookReceiver, path: str) -> None:
    """An attempt that would take its whole time ends when it is interrupted."""
    client = WebhookClient(LOOPBACK, total=timedelta(minutes=5))
    answers: list[Answered | Unanswered] = []
    hits = len(receiver.hits(path))
    thread = Thread(target=lambda: answers.append(post(client, receiver.url(path))))
    thread.start()
    eventually(lambda: len(receiver.hits(path)) > hits, "the receiver has the request")
    while thread.is_alive():
        client.interrupt()
        thread.join(timeout=0.05)
    assert len(answers) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for hooks.acme.example with its key, and a context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.acme.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.acme.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    trusting = ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
    return file, trusting


def read_request(line: socket.socket) -> None:
    """Reads all of it: closed with a part unread, a connection is reset, and the client may lose its answer."""
    read, length = b"", 0
    while b"\r\n\r\n" not in read or len(read.partition(b"\r\n\r\n")[2]) < length:
        received = line.recv(65_536)
        if not received:
            raise ConnectionError("the client has gone")
        read += received
        length = int(read.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)


@pytest.fixture
def tls_server(certificate: tuple[Path, ssl.SSLContext]) -> Iterator[tuple[int, list[str | None]]]:
    """Its port, and the names that its visitors asked for; answers each 204."""
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[0])
    context.sni_callback = lambda _, name, __: named.append(name)
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw, _ = door.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(raw, server_side=True) as line:
                    read_request(line)
                    line.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            except OSError:
                raw.close()

    thread = Thread(target=serve, daemon=True)
    thread.start()
    yield door.getsockname()[1], named
    door.shutdown(socket.SHUT_RDWR)
    door.close()
    thread.join(timeout=10)


def test_tls_is_with_the_name_at_the_address_that_was_looked_at(
    certificate: tuple[Path, ssl.SSLContext], tls_server: tuple[int, list[str | None]]
) -> None:
    """The server is told the URL's name, its certificate must be that name's, and trusted."""
    port, named = tls_server
    names = Names(["127.0.0.1"])
    trusting = WebhookClient(LOOPBACK, total=TOTAL, tls=certificate[1], resolve=names)
    assert post(trusting, f"https://hooks.acme.example:{port}/") == Answered(204, None)
    wrong = Unanswered("the connection failed: the certificate is not valid for this name")
    assert post(trusting, f"https://hooks.other.example:{port}/") == wrong
    assert named == ["hooks.acme.example", "hooks.other.example"]
    assert post(WebhookClient(LOOPBACK, total=TOTAL, resolve=names), f"https://hooks.acme.example:{port}/") == wrong


def test_a_peer_that_says_nothing_is_left_in_time() -> None:
    """Silence in the handshake, and before an answer, ends with the attempt's time."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        client = WebhookClient(LOOPBACK, total=timedelta(seconds=1), resolve=Names(["127.0.0.1"]))
        for scheme in ("https", "http"):
            said = post(client, f"{scheme}://hooks.acme.example:{door.getsockname()[1]}/")
            assert said == Unanswered("the receiver was too slow")


def test_unusual_forms_are_no_urls() -> None:
    """The forms above that hide an address are refused before they could be sent to."""
    for host in UNUSUAL:
        with pytest.raises(MalformedUrlError):
            WebhookUrl.parse(f"https://{host}/")
