"""Scopes, networks and plans: what is taken, what is refused, what they allow."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.access import Feature, Networks, Plan, Scope, Scopes, client_network, parse_address

KNOWN = [
    "audit:*",
    "audit:read",
    "campaigns:*",
    "campaigns:read",
    "campaigns:write",
    "interviews:*",
    "interviews:read",
    "interviews:write",
    "invites:*",
    "invites:read",
    "invites:write",
    "keys:*",
    "keys:read",
    "keys:verify",
    "keys:write",
    "usage:*",
    "usage:read",
    "webhooks:*",
    "webhooks:read",
    "webhooks:write",
]
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)
addresses = st.one_of(v4, v6)


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = draw(addresses)
    length = draw(st.integers(0, address.max_prefixlen))
    return str(ip_network(f"{address}/{length}", strict=False))


@pytest.mark.parametrize("text", KNOWN)
def test_known_scopes_are_read(text: str) -> None:
    """Every scope of the product is read as itself."""
    assert Scope.parse(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "*", "*:*", "keys", "keys:", ":read", "keys:delete", "audit:write", "Keys:read", "keys:read ", "*:read"],
)
def test_unknown_scopes_are_refused(text: str) -> None:
    """A scope that does not exist is an error, so that a typing mistake never makes a key that can do nothing."""
    with pytest.raises(ValueError, match="unknown scope"):
        Scope.parse(text)


@given(st.text())
def test_arbitrary_text_is_a_known_scope_or_refused(text: str) -> None:
    """No text beyond the list is a scope, and the refusal repeats only its start."""
    try:
        assert Scope.parse(text) in KNOWN
    except ValueError as error:
        assert len(str(error)) < 700  # noqa: PT017 - the bound on what a refusal repeats


@given(st.sets(st.sampled_from(KNOWN), min_size=1), st.sampled_from(KNOWN))
def test_scopes_allow_themselves_and_what_their_star_covers(granted: set[str], wanted: str) -> None:
    """A scope is allowed when it was granted or its resource's `*` was, and never otherwise."""
    resource = wanted.partition(":")[0]
    expected = wanted in granted or f"{resource}:*" in granted
    assert Scopes.parse(list(granted)).allows(Scope.parse(wanted)) == expected


@given(st.lists(st.sampled_from(KNOWN), min_size=1, max_size=32))
def test_scopes_are_a_set_with_one_spelling(texts: list[str]) -> None:
    """Order and repetition do not count, and the list form is sorted and reads back as the same scopes."""
    scopes = Scopes.parse(texts)
    assert scopes.to_list() == sorted(set(texts))
    assert Scopes.parse(scopes.to_list()) == scopes == Scopes.parse(texts[::-1])
    assert hash(scopes) == hash(Scopes.parse(texts[::-1]))
    assert scopes != texts


@pytest.mark.parametrize("texts", [[], ["keys:read"] * 33])
def test_the_number_of_scopes_is_bounded(texts: list[str]) -> None:
    """No scopes at all, and more than 32, are refused: an empty list must never read as full access."""
    with pytest.raises(ValueError, match="between 1 and 32"):
        Scopes.parse(texts)


def test_a_nearly_full_list_of_scopes_is_taken() -> None:
    """32 entries are taken."""
    assert Scopes.parse(["keys:read"] * 32).to_list() == ["keys:read"]


@given(st.lists(networks(), min_size=1, max_size=50), addresses)
def test_networks_contain_what_the_standard_library_says(texts: list[str], address: IPv4Address | IPv6Address) -> None:
    """An address is inside when it is in any of the networks, as `ipaddress` has it, mapped addresses as IPv4."""
    plain = (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
    expected = any(plain in ip_network(text) for text in Networks.parse(texts).to_list())
    assert Networks.parse(texts).contains(address) == expected


@given(networks(), st.data())
def test_both_ends_of_a_network_are_inside_and_their_neighbours_outside(text: str, data: st.DataObject) -> None:
    """A network holds its first and last address and any between, and neither neighbour."""
    network = ip_network(Networks.parse([text]).to_list()[0])
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = type(network.network_address)
    parsed = Networks.parse([text])
    for number in (first, last, data.draw(st.integers(first, last))):
        inside = kind(number)
        mapped = isinstance(inside, IPv6Address) and inside.ipv4_mapped is not None
        assert parsed.contains(inside) or mapped
    for number in (first - 1, last + 1):
        if 0 <= number < 2**network.max_prefixlen:
            assert not parsed.contains(kind(number))


@given(st.lists(networks(), min_size=1, max_size=50))
def test_networks_have_one_spelling(texts: list[str]) -> None:
    """The list form reads back as the same networks, whatever their order."""
    parsed = Networks.parse(texts)
    assert Networks.parse(parsed.to_list()).to_list() == parsed.to_list()
    assert Networks.parse(texts[::-1]) == parsed
    assert hash(Networks.parse(texts[::-1])) == hash(parsed)
    assert parsed != texts


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::/0", "::/0"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_networks_are_listed_in_canonical_form(text: str, canonical: str) -> None:
    """Single addresses become a network of one, IPv6 its short form, v4-mapped networks IPv4."""
    assert Networks.parse([text]).to_list() == [canonical]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "localhost",
        "203.0.113.7/24",
        "2001:db8::1/32",
        "203.0.113.0/33",
        "203.0.113.0/-1",
        "203.0.113.0/255.255.255.0",
        "203.0.113.0/0.0.0.255",
        "203.0.113",
        "203.0.113.0/24 ",
        "203.0.113.0/24\n",
        "203.0.113.0/\u0662\u0664",
        "203.0.113.256",
        "010.0.0.1",
        "1",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "2001:db8::/129",
        "::ffff:203.0.113.7/24",
        "a" * 5000,
    ],
)
def test_what_is_not_exactly_a_network_is_refused(text: str) -> None:
    """Host bits, netmasks, zones, names and other spellings are errors with a short message."""
    with pytest.raises(ValueError, match=r"network|prefix") as refusal:
        Networks.parse([text])
    assert len(str(refusal.value)) < 200


@given(st.text(max_size=60))
def test_arbitrary_text_is_a_network_or_a_value_error(text: str) -> None:
    """Whatever text comes, the answer is networks or ValueError."""
    try:
        assert len(Networks.parse([text]).to_list()) == 1
    except ValueError:
        return


@pytest.mark.parametrize("texts", [[], ["203.0.113.7"] * 51])
def test_the_number_of_networks_is_bounded(texts: list[str]) -> None:
    """No networks at all, and more than 50, are refused."""
    with pytest.raises(ValueError, match="between 1 and 50"):
        Networks.parse(texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%<script>", "fe80::1"),
    ],
)
def test_addresses_are_read_plain(text: str, expected: str) -> None:
    """A v4-mapped address is the IPv4 address, and a zone, which a client can write freely, is dropped."""
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "unknown", "203.0.113.7:443", "[::1]", "203.0.113.7/32", " 203.0.113.7", "1", "_a"]
)
def test_what_is_not_an_address_is_none(text: str) -> None:
    """Ports, brackets, networks and names are no address."""
    assert parse_address(text) is None


@given(st.text(max_size=60))
def test_arbitrary_text_is_an_address_or_none(text: str) -> None:
    """Whatever text comes, nothing is raised."""
    address = parse_address(text)
    assert address is None or ip_address(str(address)) == address


def test_scopes_and_networks_print_as_their_list_form() -> None:
    """What a log or a failed test shows of them is what the key's owner wrote."""
    assert repr(Scopes.parse(["keys:read"])) == "Scopes(['keys:read'])"
    assert repr(Networks.parse(["203.0.113.7"])) == "Networks(['203.0.113.7/32'])"


@given(v6, st.integers(0, 2**64 - 1))
def test_one_line_of_ipv6_is_one_client(address: IPv6Address, host: int) -> None:
    """All addresses of an IPv6 /64 are one client network, which holds the address and no more."""
    neighbour = IPv6Address(int(address) >> 64 << 64 | host)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert client_network(address) == client_network(neighbour)
        assert ip_network(client_network(address)).prefixlen == 64
        assert address in ip_network(client_network(address))


@given(v4)
def test_one_address_of_ipv4_is_one_client(address: IPv4Address) -> None:
    """An IPv4 address is its own client network, however it is written."""
    assert client_network(address) == str(address)
    assert client_network(IPv6Address(f"::ffff:{address}")) == str(address)


def test_each_plan_has_the_features_of_those_before_it() -> None:
    """`free` has campaigns, `team` adds interviews and webhooks, `scale` adds networks and audit."""
    features = {plan.value: {feature.value for feature in Feature if plan.includes(feature)} for plan in Plan}
    assert features == {
        "free": {"campaigns"},
        "team": {"campaigns", "interviews", "webhooks"},
        "scale": {"campaigns", "interviews", "webhooks", "networks", "audit"},
    }
