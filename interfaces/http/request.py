"""What is known of one request before any route sees it: its id, its credential, and where it came from."""

import re
from asyncio import Future
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from litestar.types import Scope

from application.authentication import Authentication
from domain.access import Address, parse_address
from domain.credential import CREDENTIAL_BYTES_MAX
from domain.verdict import KeyFacts
from interfaces.settings import ClientIp

_STATE = "keyledger"
_FORWARDED_HOPS_MAX = 32
# RFC 7239, section 6: what is no bare address may bear a port, and IPv6 stands in brackets.
_NODE = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([0-9A-Fa-f]*:[^\[\]]*)\](?::[0-9]{1,5})?", re.ASCII)
_ORIGIN_AND_PATH = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?([^?#]*)")
_ADDRESSES_MAX = 4096
TrustedProxies = tuple[IPv4Network | IPv6Network, ...]
AddressText = Callable[[Address | None], str | None]


@dataclass(slots=True)
class RequestRecord:
    """The running notes on one request, from which its log line and its access row are written.

    ``client`` is None when the address is not known; ``authentication`` is None on routes that ask for no key.
    """

    request_id: str
    method: str
    """As it was asked: HEAD, too, which the framework is told is a GET."""
    client: Address | None
    client_ip: str | None
    """``client`` as it is logged."""
    counted: Address | None
    """Whom a failed attempt counts against, as `counted_of` has it."""
    authentication: Authentication | None = None
    judge_again: Callable[[], Awaitable[None]] | None = None
    """Raises the refusal when the key is not accepted any more; None where no key is asked for."""
    beside: "Future[None] | None" = None
    """The commit of a row besides the request's own that its answer waits for; None when there is none to wait for."""

    @property
    def caller(self) -> KeyFacts:
        """The accepted key; only routes behind the gate may ask."""
        if self.authentication is None or self.authentication.facts is None:
            raise LookupError("this route is not behind the gate")
        return self.authentication.facts


def keep_record(scope: Scope, record: RequestRecord) -> None:
    """Puts the record where every layer of this request finds it."""
    cast("dict[str, Any]", scope)[_STATE] = record


def record_of(scope: Scope) -> RequestRecord:
    """This request's record."""
    record: RequestRecord = cast("dict[str, Any]", scope)[_STATE]
    return record


def noted_of(scope: Scope) -> RequestRecord | None:
    """This request's record; None before it has one."""
    return cast("dict[str, Any]", scope).get(_STATE)


def credential_of(scope: Scope) -> bytes | None:
    """The bearer token as sent; None when there is no Authorization header; b"" for one that cannot be taken.

    RFC 6750, section 2.1. Two Authorization lines, more than 512 bytes, or another scheme cannot be taken: each
    ends as a malformed credential, in the same refusal as any other.
    """
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or len(value) > CREDENTIAL_BYTES_MAX:
        return b""
    if value.startswith(b"Bearer "):  # as nearly everybody writes it
        return value[7:].strip(b" ")
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""


def client_of(scope: Scope, trusted: TrustedProxies) -> Address | None:
    """The caller's address: the peer, or behind trusted proxies the rightmost hop that is not one of them.

    A hop may bear a port. None when no address can be told, as behind a hop that cannot be read: that its proxy is in a
    key's networks says nothing of who asks.
    """
    peer: tuple[str, int] | None = scope["client"]
    address = _peer_address(peer[0]) if peer else None
    if address is None or not trusted or not _is_trusted(address, trusted):
        return address
    for hop in _forwarded_hops(scope):
        forwarded = parse_address(hop) or _node_address(hop)
        if forwarded is None or not _is_trusted(forwarded, trusted):
            return forwarded
        address = forwarded
    return address


def counted_of(scope: Scope, client: Address | None) -> Address | None:
    """Whom a failed attempt counts against: the client, or the peer when it names one that cannot be read."""
    peer = cast("dict[str, Any]", scope).get("client")  # which a host's server may leave out
    return client or (_peer_address(peer[0]) if peer else None)


def is_from_trusted_proxy(scope: Scope, trusted: TrustedProxies) -> bool:
    """Whether the peer itself, and not only somebody it speaks for, is one of the proxies."""
    peer: tuple[str, int] | None = scope["client"]
    address = _peer_address(peer[0]) if peer else None
    return address is not None and _is_trusted(address, trusted)


def path_of(target: bytes) -> str:
    """The path of a request target (RFC 9112, section 3.2) as a server reads it: decoded, no origin, no query.

    Decoded, since it is logged, and a key in it has to be known as one however it is written.
    """
    match = _ORIGIN_AND_PATH.match(target)
    return unquote_to_bytes(match[1] if match else b"").decode("utf-8", "replace")


@lru_cache(maxsize=_ADDRESSES_MAX)
def _peer_address(text: str) -> Address | None:
    # The same peers ask again and again; reading or writing an address takes 2 µs, a look-up a tenth.
    return parse_address(text)


def address_text(kept: ClientIp) -> AddressText:
    """Writes an address as it is logged: all of it, its network (IPv4 /24, IPv6 /48), or None; None for None."""

    @lru_cache(maxsize=_ADDRESSES_MAX)
    def text(address: Address | None) -> str | None:
        match address:
            case _ if kept == "none":
                return None
            case IPv4Address() if kept == "truncated":
                return str(IPv4Address(int(address) >> 8 << 8))
            case IPv6Address() if kept == "truncated":
                return str(IPv6Address(int(address) >> 80 << 80))
            case _:
                return None if address is None else str(address)

    return text


def _forwarded_hops(scope: Scope) -> list[str]:
    lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = b",".join(lines).decode("latin-1").split(",")
    return [hop.strip() for hop in reversed(hops[-_FORWARDED_HOPS_MAX:]) if hop.strip()]


def _node_address(hop: str) -> Address | None:
    node = _NODE.fullmatch(hop)
    return None if node is None else parse_address(node[1] or node[2])


def _is_trusted(address: Address, trusted: TrustedProxies) -> bool:
    return any(address in network for network in trusted)
