"""Where webhooks may go, by what the URL says and by the address that is found."""

from ipaddress import ip_address, ip_network

import pytest

from domain.destination import Destinations, MalformedUrlError, WebhookUrl, is_public

NOWHERE = Destinations()
PRIVATE = Destinations((ip_network("127.0.0.0/8"), ip_network("fd00::/8")))

READ = [
    ("https://hooks.acme.example", "hooks.acme.example", 443, "/", "hooks.acme.example"),
    ("HTTPS://Hooks.Acme.Example:443/a?b=c", "hooks.acme.example", 443, "/a?b=c", "hooks.acme.example"),
    ("https://hooks.acme.example:8443?b", "hooks.acme.example", 8443, "/?b", "hooks.acme.example:8443"),
    ("http://[2001:DB8::1]:8080/x", "2001:db8::1", 8080, "/x", "[2001:db8::1]:8080"),
    ("http://192.0.2.1/%2e%2e/", "192.0.2.1", 80, "/%2e%2e/", "192.0.2.1"),
]


@pytest.mark.parametrize(("text", "host", "port", "target", "authority"), READ, ids=[text for text, *_ in READ])
def test_the_parts_are_those_that_a_connection_is_made_with(
    text: str, host: str, port: int, target: str, authority: str
) -> None:
    """Each part has one reading."""
    url = WebhookUrl.parse(text)
    assert (url.host, url.port, url.target, url.authority) == (host, port, target, authority)


TRICKS = [
    "", "hooks.acme.example", "//hooks.acme.example", "ftp://hooks.acme.example", "file:///etc/passwd", "gopher://x/",
    "https://", "https:///x", "https://user@hooks.acme.example", "https://user:pw@hooks.acme.example",
    "https://hooks.acme.example@127.0.0.1/", "https://127.0.0.1#@hooks.acme.example/", "https://hooks.acme.example/#f",
    "https://hooks.acme.example\\@127.0.0.1/", "https://hooks.acme.example /", "https://hooks.acme.example\t/",
    "https://hooks.acme.example\r\nHost: x/", "https://hooks.acme.example/\0", "https://hooks.acme.example:0",
    "https://hooks.acme.example:65536", "https://hooks.acme.example:443:80", "https://hooks.acme.example:",
    "https://2130706433/", "https://0177.0.0.1/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://127.1/",
    "https://127.0.0.0x1/", "https://127.0.0.1./", "https://127.0.0.1.0/", "https://256.0.0.1/", "https://[::1/",
    "https://[127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[::ffff:127.0.0.1:1]/", "https://a..b/",
    "https://-a.example/", "https://a_b.example/", "https://ümlaut.example/", "https://①②⑦.0.0.1/",
    "https://127。0。0。1/", "https://hooks.acme.example/" + "a" * 2048, "https://" + "a" * 64 + ".example/",
    "https://hooks.acme.example/<x>", "https://hooks.acme.example/{x}",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKS, ids=ascii)
def test_a_url_that_could_be_read_in_two_ways_is_refused(text: str) -> None:
    """User information, unusual forms of addresses, characters that parsers disagree on; the text is not repeated."""
    with pytest.raises(MalformedUrlError) as refused:
        WebhookUrl.parse(text)
    assert len(text) < 12 or text not in str(refused.value)


def test_a_url_is_as_long_as_2048_characters() -> None:
    """That many are taken, one more is not."""
    longest = "https://hooks.acme.example/".ljust(2048, "a")
    assert WebhookUrl.parse(longest) == longest
    with pytest.raises(MalformedUrlError, match="2048"):
        WebhookUrl.parse(longest + "a")


NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254",  # noqa: S104 - refused
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:7f00:1::", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1", "3fff::1", "5f00::1",
    "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8"]
PUBLIC += ["::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_private_and_reserved_addresses_are_not_public(text: str) -> None:
    """Loopback, private, link-local, metadata, documentation, multicast, and all of these inside IPv6."""
    assert not is_public(ip_address(text))
    assert not NOWHERE.permits(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are(text: str) -> None:
    """Those of the internet, through NAT64 as well."""
    assert is_public(ip_address(text))
    assert NOWHERE.permits(ip_address(text))


def test_an_allowed_network_opens_itself_alone() -> None:
    """The operator's networks are reached, also written as mapped, and no other private one."""
    assert PRIVATE.permits(ip_address("127.0.0.1"))
    assert PRIVATE.permits(ip_address("::ffff:127.0.0.1"))
    assert PRIVATE.permits(ip_address("fd12::1"))
    assert not PRIVATE.permits(ip_address("10.0.0.1"))
    assert not PRIVATE.permits(ip_address("::1"))


REFUSED = [
    ("https://hooks.acme.example/", None, None),
    ("https://localhost/", None, None),  # the connection will tell
    ("http://hooks.acme.example/", "must be an https:// URL", None),
    ("https://127.0.0.1/", "must not be a private or reserved address", None),
    ("https://[::ffff:7f00:1]/", "must not be a private or reserved address", None),
    ("http://127.0.0.1/", "must be an https:// URL", None),
    ("https://10.0.0.1/", *["must not be a private or reserved address"] * 2),
    ("http://8.8.8.8/", *["must be an https:// URL"] * 2),
]


@pytest.mark.parametrize(("text", "nowhere", "private"), REFUSED, ids=[text for text, *_ in REFUSED])
def test_what_can_never_be_delivered_is_said_at_once(text: str, nowhere: str | None, private: str | None) -> None:
    """By the URL alone, without networks that are allowed, and with the loopback allowed."""
    url = WebhookUrl.parse(text)
    assert (NOWHERE.refuse(url), PRIVATE.refuse(url)) == (nowhere, private)
