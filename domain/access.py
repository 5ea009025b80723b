"""What a bearer may do (scopes), from where (networks), and what its account has paid for (plans)."""

import re
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

ENTRY_SHOWN_CHARACTERS = 50
NETWORKS_MAX = 50
SCOPES_MAX = 32

_ACTIONS = {
    "audit": ("read",),
    "campaigns": ("read", "write"),
    "interviews": ("read", "write"),
    "invites": ("read", "write"),
    "keys": ("read", "write", "verify"),
    "usage": ("read",),
    "webhooks": ("read", "write"),
}
_KNOWN_SCOPES = frozenset(
    f"{resource}:{action}" for resource, actions in _ACTIONS.items() for action in (*actions, "*")
)

# `ip_network` also takes netmasks and hostmasks after the slash, and zones: each a way to write what is not meant.
_CIDR = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
_CLIENT_V6_HOST_BITS = 64


class Scope(str):
    """A known permission: `resource:action`, or `resource:*` for every action on the resource."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read untrusted text; a scope that does not exist raises ValueError, with the start of the text."""
        if text not in _KNOWN_SCOPES:
            raise ValueError(f"unknown scope {text[:ENTRY_SHOWN_CHARACTERS]!r}")
        return cls(text)


class Scopes:
    """1 to 32 scopes that a key is held to. Where a key has None instead, it has full access to its account."""

    __slots__ = ("_allowed", "_granted")

    def __init__(self, granted: Iterable[Scope]) -> None:
        self._granted: Final = frozenset(granted)
        allowed: set[str] = set(self._granted)
        for scope in self._granted:
            resource, _, action = scope.partition(":")
            if action == "*":
                allowed.update(f"{resource}:{each}" for each in _ACTIONS[resource])
        self._allowed: Final = frozenset(allowed)

    @classmethod
    def parse(cls, texts: list[str]) -> Self:
        """Read untrusted texts; none, more than 32, or an unknown one raises ValueError. Repetitions count once."""
        _demand_count(texts, SCOPES_MAX, "scopes")
        return cls(Scope.parse(text) for text in texts)

    def allows(self, scope: Scope) -> bool:
        """Whether it is among these, or its resource's `*` is. Only a `*` allows a `*`: actions may be added to it."""
        return scope in self._allowed

    def to_list(self) -> list[str]:
        """The scopes as `parse` takes them, sorted."""
        return sorted(str(scope) for scope in self._granted)

    def __eq__(self, other: object) -> bool:
        return self._granted == other._granted if isinstance(other, Scopes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._granted)

    def __repr__(self) -> str:
        return f"Scopes({self.to_list()})"


class Networks:
    """1 to 50 networks that a key may be used from. Where a key has None instead, it works from anywhere."""

    __slots__ = ("_networks", "_v4", "_v6")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks: Final = frozenset(map(unmapped_network, networks))
        self._v4: Final = _by_host_bits(network for network in self._networks if isinstance(network, IPv4Network))
        self._v6: Final = _by_host_bits(network for network in self._networks if isinstance(network, IPv6Network))

    @classmethod
    def parse(cls, texts: list[str]) -> Self:
        """Read untrusted CIDRs or single addresses.

        ValueError for none, for more than 50, for one that is not exactly a network (bits set after the prefix, a
        netmask instead of a length, a zone). A network of v4-mapped addresses is the IPv4 network that it stands for.
        """
        _demand_count(texts, NETWORKS_MAX, "networks")
        return cls(_parse_network(text) for text in texts)

    def contains(self, address: Address) -> bool:
        """Whether the address is in one of these; a v4-mapped address is judged as the IPv4 address."""
        plain = _unmapped(address)
        number = int(plain)
        by_host_bits = self._v4 if isinstance(plain, IPv4Address) else self._v6
        return any(number >> host_bits in prefixes for host_bits, prefixes in by_host_bits)

    def to_list(self) -> list[str]:
        """The networks as canonical CIDRs, IPv4 first, then by address and length."""
        return [str(network) for network in sorted(self._networks, key=_position)]

    def __eq__(self, other: object) -> bool:
        return self._networks == other._networks if isinstance(other, Networks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._networks)

    def __repr__(self) -> str:
        return f"Networks({self.to_list()})"


class Feature(StrEnum):
    """A part of the product that a plan may lack."""

    CAMPAIGNS = "campaigns"
    INTERVIEWS = "interviews"
    WEBHOOKS = "webhooks"
    NETWORKS = "networks"
    AUDIT = "audit"


class Plan(StrEnum):
    """What an account pays for; each plan has the features of those before it."""

    FREE = "free"
    TEAM = "team"
    SCALE = "scale"

    def includes(self, feature: Feature) -> bool:
        """Whether an account of this plan may use the feature."""
        return feature in _FEATURES[self]


_FREE = frozenset({Feature.CAMPAIGNS})
_TEAM = _FREE | {Feature.INTERVIEWS, Feature.WEBHOOKS}
_SCALE = _TEAM | {Feature.NETWORKS, Feature.AUDIT}
_FEATURES = {Plan.FREE: _FREE, Plan.TEAM: _TEAM, Plan.SCALE: _SCALE}


def parse_address(text: str) -> Address | None:
    """Read an untrusted address, `::ffff:` taken off and a zone dropped; None for whatever is not one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        # A zone means something on the machine that wrote it alone, and its text is anything the client liked.
        address = IPv6Address(int(address))
    return _unmapped(address)


def client_network(address: Address) -> str:
    """The unit of the failed-attempt limit: an IPv4 address alone, or the IPv6 /64 that one customer line owns."""
    plain = _unmapped(address)
    if isinstance(plain, IPv4Address):
        return str(plain)
    first = int(plain) >> _CLIENT_V6_HOST_BITS << _CLIENT_V6_HOST_BITS
    return f"{IPv6Address(first)}/{128 - _CLIENT_V6_HOST_BITS}"


def _unmapped(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def unmapped_network(network: Network) -> Network:
    """The IPv4 network that one of v4-mapped addresses stands for; any other as it is.

    Addresses are compared unmapped, so a mapped network would never match, and lock out in silence.
    """
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        first = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))
    return network


def _parse_network(text: str) -> Network:
    shown = text[:ENTRY_SHOWN_CHARACTERS]
    if _CIDR.fullmatch(text) is None:
        raise ValueError(f"{shown!r} is not a network such as 203.0.113.0/24 or 2001:db8::/32")
    try:
        return ip_network(text, strict=True)
    except ValueError as error:
        reason = "has bits set after its prefix" if "host bits" in str(error) else "is not a network"
        raise ValueError(f"{shown!r} {reason}") from error


def _by_host_bits(networks: Iterable[Network]) -> tuple[tuple[int, frozenset[int]], ...]:
    prefixes: dict[int, set[int]] = {}
    for network in networks:
        host_bits = network.max_prefixlen - network.prefixlen
        prefixes.setdefault(host_bits, set()).add(int(network.network_address) >> host_bits)
    return tuple((host_bits, frozenset(found)) for host_bits, found in prefixes.items())


def _position(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _demand_count(entries: list[str], most: int, what: str) -> None:
    if not 1 <= len(entries) <= most:
        raise ValueError(f"between 1 and {most} {what} are needed, not {len(entries)}")
