"""Typed ids: what is an id, and that nothing else passes for one."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import (
    BASE62,
    AccountId,
    CampaignId,
    Id,
    InterviewId,
    InviteId,
    KeyId,
    MalformedIdError,
    RequestId,
    RunId,
    WebhookEndpointId,
    base62,
)

KINDS: list[type[Id]] = [
    AccountId,
    KeyId,
    CampaignId,
    InterviewId,
    InviteId,
    WebhookEndpointId,
    RunId,
    RequestId,
]
kinds = st.sampled_from(KINDS)


def test_prefixes_and_lengths_are_the_public_ones() -> None:
    """Prefixes and lengths are part of the contract: clients store ids."""
    assert {kind.PREFIX: kind.LENGTH for kind in KINDS} == {
        "acc_": 16,
        "key_": 9,
        "cmp_": 16,
        "int_": 16,
        "inv_": 16,
        "whe_": 16,
        "run_": 16,
        "req_": 22,
    }


@given(kinds, st.binary(min_size=16, max_size=64))
def test_every_id_made_is_read_back_as_itself(kind: type[Id], entropy: bytes) -> None:
    """An id of any entropy parses to the same id of the same kind."""
    made = kind.from_entropy(entropy)
    parsed = kind.parse(str(made))
    assert parsed == made
    assert type(parsed) is type(made) is kind


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_request_id_keeps_all_of_sixteen_bytes(one: bytes, other: bytes) -> None:
    """22 characters hold 128 bits: different entropy gives different request ids."""
    assert (RequestId.from_entropy(one) == RequestId.from_entropy(other)) == (one == other)


@given(kinds, st.text(max_size=40))
def test_arbitrary_text_is_refused_or_is_exactly_an_id(kind: type[Id], text: str) -> None:
    """Whatever text comes, the answer is an id in its one spelling or MalformedIdError."""
    try:
        parsed = kind.parse(text)
    except MalformedIdError:
        return
    assert parsed == text
    assert set(parsed.removeprefix(kind.PREFIX)) <= set(BASE62)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key_",
        "key_7Hq2mB9x",
        "key_7Hq2mB9xTT",
        "key_7Hq2mB9x-",
        "key_7Hq2mB9xT\n",
        " key_7Hq2mB9xT",
        "KEY_7Hq2mB9xT",
        "acc_7Hq2mB9xT",
        "key_7Hq2mB9x\u0665",
        "key_7Hq2mB9x\uff11",
        "key_7Hq2mB9x\u00e9",
        "key_7Hq2mB9x\0",
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    """A wrong length, prefix, case, space or a digit of another script is no key id."""
    with pytest.raises(MalformedIdError):
        KeyId.parse(text)


def test_a_refusal_does_not_repeat_the_text() -> None:
    """What was sent instead of an id, a key perhaps, does not get into messages."""
    with pytest.raises(MalformedIdError) as refusal:
        KeyId.parse("sk_live_7Hq2mB9xT_secretsecret")
    assert "secret" not in str(refusal.value)


def test_too_little_entropy_is_refused() -> None:
    """Fewer than 16 random bytes make no id."""
    with pytest.raises(ValueError, match="random bytes"):
        KeyId.from_entropy(bytes(15))


def test_ids_are_plain_text_to_json_and_pickle() -> None:
    """JSON writes an id as its text, and a pickled id is the same id of the same kind."""
    account = AccountId.from_entropy(bytes(range(16)))
    restored = pickle.loads(pickle.dumps(account))  # noqa: S301 - our own bytes
    assert json.loads(json.dumps({"id": account})) == {"id": str(account)}
    assert restored == account
    assert type(restored) is AccountId


@given(st.integers(min_value=0, max_value=62**11 - 1))
def test_base62_is_a_positional_system(number: int) -> None:
    """The characters are the digits of the number, so that text order is number order."""
    text = base62(number, 11)
    assert len(text) == 11
    assert sum(BASE62.index(character) * 62**power for power, character in enumerate(reversed(text))) == number


@pytest.mark.parametrize(("number", "length"), [(62, 1), (62**11, 11), (-1, 11), (1, 0)])
def test_base62_refuses_what_does_not_fit(number: int, length: int) -> None:
    """A number outside its characters is an error, never a shorter number."""
    with pytest.raises(ValueError, match="does not fit"):
        base62(number, length)


def test_the_alphabet_sorts_as_bytes() -> None:
    """BASE62 is digits, upper case, lower case: the order that PostgreSQL's C collation has."""
    assert sorted(BASE62) == list(BASE62)
    assert len(set(BASE62)) == 62
