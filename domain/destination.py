"""Where webhooks may go: a URL without tricks, and addresses of the public internet.

A name is nothing to trust: what it resolves to is looked at when the connection is made, and that very address is
connected to. What a URL says is checked here as well, so that whoever types a private address is told at once.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

URL_CHARACTERS_MAX = 2048
HOST_CHARACTERS_MAX = 253
PORT_MAX = 65_535
_DEFAULT_PORTS = {"https": 443, "http": 80}
# RFC 3986 without user information, a fragment, or characters that parsers are known to read in different ways.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:[/?][0-9A-Za-z._~!$&'()*+,;=:@/?%-]*)?)",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?")
# A host whose last label looks like a number is an address to some parsers (2130706433, 0x7f.1, 0177.0.0.1).
_NUMERIC = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's special-purpose registries: what is not globally reachable, and multicast. The standard library's `is_global`
# changed between the releases that we run on.
_NOT_GLOBAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
            "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        ),
    )
)  # fmt: skip
_GLOBAL_6 = IPv6Network("2000::/3")
# Teredo and the other protocols' own (2001::/23), documentation, 6to4, whose addresses hold IPv4 ones.
_NOT_GLOBAL_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")))
_NAT64 = IPv6Network("64:ff9b::/96")


class MalformedUrlError(ValueError):
    """The text is not a URL that webhooks can be sent to; the message says why, and never repeats it."""


class WebhookUrl(str):
    """An `http` or `https` URL, as it was given; the parts are those that a connection is made with."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "WebhookUrl":
        """Reads untrusted text; MalformedUrlError."""
        if len(text) > URL_CHARACTERS_MAX:
            raise MalformedUrlError(f"must be at most {URL_CHARACTERS_MAX} characters")
        match = _URL.fullmatch(text)
        if match is None:
            raise MalformedUrlError("must be an https:// URL without user name and fragment, in ASCII")
        host, port = match["host"], match["port"]
        if host.startswith("["):
            _ipv6(host[1:-1])
        else:
            _check_name(host)
        if port is not None and not 0 < int(port) <= PORT_MAX:
            raise MalformedUrlError(f"the port must be 1 to {PORT_MAX}")
        return cls(text)

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return self._part("scheme").lower()

    @property
    def host(self) -> str:
        """A name or an address, without brackets."""
        return self._part("host").lower().strip("[]")

    @property
    def port(self) -> int:
        """The given port, or the scheme's own."""
        return int(self._part("port") or _DEFAULT_PORTS[self.scheme])

    @property
    def authority(self) -> str:
        """What the `Host` header says (RFC 9110 section 7.2): without the scheme's own port."""
        host = self._part("host").lower()
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query, beginning with a slash."""
        target = self._part("target")
        return target if target.startswith("/") else f"/{target}"

    @property
    def address(self) -> Address | None:
        """The address that the host is; None for a name."""
        try:
            return _ipv6(self.host) if ":" in self.host else IPv4Address(self.host)
        except ValueError:
            return None

    def _part(self, name: str) -> str:
        match = _URL.fullmatch(self)
        return (match[name] or "") if match is not None else ""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Which addresses may be connected to: public ones, and those of ``allowed`` networks; http to the latter alone."""

    allowed: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        """Whether a connection may be made to it."""
        return is_public(address) or self.is_allowed(address)

    def is_allowed(self, address: Address) -> bool:
        """Whether it is in a network that the operator named."""
        plain = _unmapped(address)
        return any(plain in network for network in self.allowed if network.version == plain.version)

    def refuse(self, url: WebhookUrl) -> str | None:
        """Why the URL can never be delivered to, by what it says itself; None when its connection will tell."""
        if url.scheme == "http" and not self.allowed:
            return "must be an https:// URL"
        address = url.address
        if address is None:
            return None
        if not self.permits(address):
            return "must not be a private or reserved address"
        if url.scheme == "http" and not self.is_allowed(address):
            return "must be an https:// URL"
        return None


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, the one that it embeds as well."""
    plain = _unmapped(address)
    if isinstance(plain, IPv4Address):
        return not any(plain in network for network in _NOT_GLOBAL_4)
    if plain in _NAT64:
        return is_public(IPv4Address(int(plain) & 0xFFFF_FFFF))
    return plain in _GLOBAL_6 and not any(plain in network for network in _NOT_GLOBAL_6)


def _unmapped(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _ipv6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError as error:
        raise MalformedUrlError("the host is not an IPv6 address") from error


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > HOST_CHARACTERS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise MalformedUrlError("the host is not a name")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            IPv4Address(host)
        except AddressValueError as error:
            raise MalformedUrlError("the host is an address in an unusual form") from error
