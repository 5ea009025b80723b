"""The grammar of credentials, and that a secret is printed nowhere."""

import base64
import copy
import hashlib
import json
import logging
import pickle
import re
import traceback
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.credential import (
    CREDENTIAL_BYTES_MAX,
    SCANNER_RULE,
    Environment,
    PresentedKey,
    Secret,
    mint_key,
    parse_invite,
    parse_key,
    without_secrets,
)
from domain.ids import BASE62, KeyId, base62

environments = st.sampled_from(Environment)
entropies = st.binary(min_size=32, max_size=32)
EXAMPLE = b"sk_live_7Hq2mB9xT_" + b"0123456789ABCDEFGHIJKLMNOPQRSTUV" + b"abcdefghijk"
INVITE = b"inv_7Hq2mB9xT_" + b"0123456789ABCDEFGHIJKLMNOPQRSTUV" + b"abcdefghijk"


def checksum(signed: bytes) -> bytes:
    """A tag that depends on all it signs; keyless, as the grammar does not care."""
    return base62(int.from_bytes(hashlib.sha256(signed).digest()[:8], "big"), 11).encode()


HIDDEN = "0123456789ABCDEFGHIJKLMNOPQRSTUVabcdefghijk"


def minted(environment: Environment = Environment.LIVE, entropy: bytes = b"e" * 32) -> tuple[KeyId, Secret]:
    return mint_key(environment, id_entropy=entropy[:16], secret_entropy=entropy, tag=checksum)


def parsed(raw: bytes) -> PresentedKey:
    presented = parse_key(raw)
    assert presented is not None
    return presented


@given(environments, entropies)
def test_a_minted_key_is_read_back(environment: Environment, entropy: bytes) -> None:
    """Every key that is made parses to its environment, id, prefix, signed part and tag."""
    key_id, secret = minted(environment, entropy)
    raw = secret.reveal().encode()
    presented = parsed(raw)
    assert presented.environment is environment
    assert presented.key_id == key_id == KeyId.parse(key_id)
    assert presented.prefix == secret.shown == f"sk_{environment}_{presented.id}"
    assert presented.raw == raw == presented.signed + presented.tag
    assert presented.tag == checksum(presented.signed)
    assert len(raw) <= 64


@given(environments, entropies, st.data())
def test_one_changed_byte_is_refused(environment: Environment, entropy: bytes, data: st.DataObject) -> None:
    """Any single byte of a key changed to any other is refused by the grammar, or its tag no longer fits."""
    raw = minted(environment, entropy)[1].reveal().encode()
    place = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    presented = parse_key(raw[:place] + bytes([byte]) + raw[place + 1 :])
    assert presented is None or presented.tag != checksum(presented.signed)


@given(environments, entropies, st.data())
def test_one_byte_more_or_less_is_refused(environment: Environment, entropy: bytes, data: st.DataObject) -> None:
    """A key with a byte put in or left out anywhere is refused."""
    raw = minted(environment, entropy)[1].reveal().encode()
    place = data.draw(st.integers(0, len(raw)))
    byte = bytes([data.draw(st.integers(0, 255))])
    assert parse_key(raw[:place] + byte + raw[place:]) is None
    assert parse_key(raw[:place] + raw[place + 1 :]) is None or place == len(raw)


near_keys = st.from_regex(rb"(sk|inv)_(live|staging|dev|prod)?_?[0-9A-Za-z_]{0,70}.?")


@given(st.one_of(st.binary(max_size=600), near_keys))
def test_arbitrary_bytes_never_raise(raw: bytes) -> None:
    """Whatever bytes are sent, the answer is a credential made of exactly those bytes, or None."""
    for presented in (parse_key(raw), parse_invite(raw)):
        assert presented is None or presented.raw == raw == presented.signed + presented.tag


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"sk_live_",
        b" " + EXAMPLE,
        EXAMPLE + b" ",
        EXAMPLE + b"\n",
        EXAMPLE + b"\0",
        EXAMPLE + EXAMPLE,
        EXAMPLE.replace(b"live", b"LIVE"),
        EXAMPLE.replace(b"live", b"prod"),
        EXAMPLE.replace(b"7Hq2", b"7H_2"),
        EXAMPLE[:-1] + "é".encode(),
        EXAMPLE.replace(b"xT_", b"xT-"),
        b"Bearer " + EXAMPLE,
        EXAMPLE + b"a" * CREDENTIAL_BYTES_MAX,
        INVITE,
    ],
)
def test_near_keys_are_refused(raw: bytes) -> None:
    """Spaces, line ends, another case, a doubled key, an invite token: none is an API key."""
    assert parse_key(raw) is None


def test_an_invite_token_is_read() -> None:
    """An invite token has an id, a tag, and no environment; and is not read as a key, nor a key as one."""
    presented = parse_invite(INVITE)
    assert presented is not None
    assert presented.environment is None
    assert presented.prefix == "inv_7Hq2mB9xT"
    assert presented.tag == b"abcdefghijk"
    assert parse_invite(EXAMPLE) is None
    assert parse_invite(INVITE + b"\n") is None
    assert parse_invite(INVITE + b"a" * CREDENTIAL_BYTES_MAX) is None


@given(environments, entropies)
def test_the_scanner_rule_finds_every_key(environment: Environment, entropy: bytes) -> None:
    """The rule that we publish for secret scanners finds a key inside text, whole, and only there."""
    text = minted(environment, entropy)[1].reveal()
    assert re.findall(SCANNER_RULE, f'KEY="{text}" # {text[:-1]} x{text}') == [text]
    assert re.findall(SCANNER_RULE, INVITE.decode()) == [INVITE.decode()]


def test_other_vendors_scanners_leave_our_keys_alone() -> None:
    """The first run after `sk_live_` stays under the ten characters that scanners of another vendor's keys ask for."""
    text = minted()[1].reveal()
    assert re.search(r"sk_(?:live|test|prod)_[0-9A-Za-z]{10,}", text) is None


@pytest.mark.parametrize("tag", [b"", b"0" * 10, b"0" * 12, b"0" * 10 + b"-"])
def test_a_key_outside_the_grammar_is_never_minted(tag: bytes) -> None:
    """A tag that the grammar would refuse stops the key from being made."""
    with pytest.raises(ValueError, match="tag"):
        mint_key(Environment.DEV, id_entropy=bytes(16), secret_entropy=bytes(32), tag=lambda _signed: tag)


@pytest.mark.parametrize(("id_bytes", "secret_bytes"), [(15, 32), (16, 31)])
def test_too_little_entropy_makes_no_key(id_bytes: int, secret_bytes: int) -> None:
    """A key needs 16 random bytes for its id and 32 for its secret."""
    with pytest.raises(ValueError, match="random bytes"):
        mint_key(Environment.DEV, id_entropy=bytes(id_bytes), secret_entropy=bytes(secret_bytes), tag=checksum)


def test_the_secret_part_comes_of_the_secret_entropy_alone() -> None:
    """The public id says nothing about the secret: it is made of other bytes, over the whole alphabet."""
    texts = [
        mint_key(Environment.LIVE, id_entropy=bytes(16), secret_entropy=bytes([n]) * 32, tag=checksum)[1].reveal()
        for n in range(256)
    ]
    secrets = {text.split("_")[3][:32] for text in texts}
    assert len(secrets) == 256
    assert set("".join(secrets)) == set(BASE62)


def holders() -> list[Any]:
    """A secret and a presented key, bare and inside what logs and messages usually hold."""
    secret = minted()[1]
    presented = parsed(secret.reveal().encode())
    return [secret, presented, [secret], {"key": presented}, (secret, presented)]


@pytest.mark.parametrize("holder", holders(), ids=["secret", "presented", "list", "dict", "tuple"])
def test_a_secret_prints_as_its_prefix(holder: object) -> None:
    """`repr`, `str`, `format`, `%` and a log record show the public prefix and nothing after it."""
    text = minted()[1].reveal()
    hidden = text.split("_")[3]
    record = logging.LogRecord("name", logging.INFO, "path", 1, "%s %r", (holder, holder), None).getMessage()
    for printed in (repr(holder), str(holder), f"{holder}", f"{holder!r}", "%s" % (holder,), record):  # noqa: UP031 - one of the ways
        assert hidden not in printed
        assert hidden[:4] not in printed
        assert "sk_live_" in printed


def test_a_secret_formats_to_a_width() -> None:
    """A format specification is applied to the prefix."""
    secret = Secret("sk_live_abcdefghi_rest", "sk_live_abcdefghi")
    assert f"{secret:>20}" == "  sk_live_abcdefghi…"
    assert secret.shown == "sk_live_abcdefghi"


@pytest.mark.parametrize("holder", holders()[:2], ids=["secret", "presented"])
@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        vars,
        lambda holder: holder.__getstate__(),
    ],
)
def test_a_secret_is_not_written_or_copied(holder: object, write: Any) -> None:
    """No serialiser takes a secret or a presented key, not even by its fields."""
    with pytest.raises(TypeError):
        write(holder)


def test_a_secret_is_no_key_of_a_set_or_dict() -> None:
    """Sets and dicts compare in plain text time; a secret refuses them."""
    with pytest.raises(TypeError):
        hash(minted()[1])


def test_a_traceback_with_its_local_variables_shows_no_secret() -> None:
    """A traceback that prints local variables prints the prefix."""

    def fail(secret: Secret, presented: PresentedKey) -> None:
        raise RuntimeError(f"failed for {secret} and {presented}")

    secret = minted()[1]
    with pytest.raises(RuntimeError) as failure:
        fail(secret, parsed(secret.reveal().encode()))
    shown = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
    text = "".join(shown.format())
    assert text.count("sk_live_") >= 4
    assert secret.reveal().split("_")[3] not in text


def test_secrets_are_equal_by_their_text() -> None:
    """Two secrets are equal when their texts are, and never equal to the text itself."""
    assert Secret("a" * 64, "a") == Secret("a" * 64, "b")
    assert Secret("a" * 64, "a") != Secret("a" * 63 + "b", "a")
    assert Secret("a" * 64, "a") != Secret("a" * 63, "a")
    assert Secret("a", "a") != "a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EXAMPLE.decode(), "sk_live_7Hq2mB9xT…"),
        (f"/api/keys/{EXAMPLE.decode()}/usage", "/api/keys/sk_live_7Hq2mB9xT…/usage"),
        ("sk_dev_7Hq2mB9xT_a sk_staging_7Hq2mB9xT_a", "sk_dev_7Hq2mB9xT… sk_staging_7Hq2mB9xT…"),
        (INVITE.decode(), "inv_7Hq2mB9xT…"),
        (f"/api/webhooks/ses_7Hq2mB9xT_{HIDDEN}", "/api/webhooks/ses_7Hq2mB9xT…"),
        ("ses_7Hq2mB9xT_a-b_c/d", "ses_7Hq2mB9xT…/d"),
        (f"tokenses_7Hq2mB9xT_{HIDDEN}", "tokenses_7Hq2mB9xT…"),
        ("/cb/whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw+/= and more", "/cb/whsec_… and more"),
        ("/cb/whsec_MfKQ9r8G%2BKYqr%2fTwj%252BUPD8%25253d?x=1", "/cb/whsec_…?x=1"),
        ("whsec_MfKQ9r8G%20KYqr", "whsec_…%20KYqr"),
        ("whsec_a", "whsec_…"),
    ],
)
def test_text_keeps_a_credentials_prefix_and_loses_the_rest(text: str, expected: str) -> None:
    """Keys, invites, sessions and webhook secrets, whole or cut, `+/=` also percent-encoded; twice is once."""
    assert without_secrets(text) == expected
    assert without_secrets(expected) == expected


ids = st.text(BASE62, min_size=9, max_size=9)
secrets = st.text(BASE62, min_size=43, max_size=43)
kinds = st.sampled_from(["sk_live_", "sk_staging_", "sk_dev_", "inv_", "ses_"])
webhook_secrets = st.binary(min_size=24, max_size=32).map(lambda secret: base64.b64encode(secret).decode())
tokens = st.one_of(
    st.tuples(st.tuples(kinds, ids).map(lambda each: f"{each[0]}{each[1]}_"), secrets),
    st.tuples(st.just("whsec_"), webhook_secrets),
)
near_tokens = st.sampled_from([
    "/", "_", "-", " ", "%", "%2", "%25", "/api/keys/", "sk_", "sk_live_", "inv_", "ses_", "whsec", "whsec_",
    "inv_abcd", "sk_dev_abcd", "ses_abcdef", "inv_abcdefg", "sk_live_7Hq2mB9xT", "inv_7Hq2mB9xT", "ses_7Hq2mB9xT",
    "addresses_", "é",
])  # fmt: skip
others = st.one_of(near_tokens, st.text(f"{BASE62}_-/+=%. é", max_size=20)).map(lambda text: ("", text))


def encoded(text: str, times: int, every: int) -> str:
    """Each so-manieth character percent-encoded, so many times over; every one with 1."""
    percent = "%" + "25" * (times - 1)
    return "".join(f"{percent}{ord(each):02X}" if n % every == 0 else each for n, each in enumerate(text))


@settings(max_examples=1000)
@given(st.lists(st.one_of(tokens, others), max_size=6))
def test_nothing_of_a_secret_stays_whatever_stands_beside_it(parts: list[tuple[str, str]]) -> None:
    """Keys, tokens and other text in any order, with nothing between them: no 12 characters of any secret are left."""
    windows = {rest[at : at + 12] for public, rest in parts if public for at in range(len(rest) - 11)}
    beside = "".join(public or rest for public, rest in parts)
    assume(not any(window in beside for window in windows))  # what chance has put beside a secret, too, may stay
    left = without_secrets("".join(public + rest for public, rest in parts))
    assert not any(window in left for window in windows)


@given(tokens, st.integers(1, 3), st.integers(1, 5))
def test_nothing_of_an_encoded_secret_stays(token: tuple[str, str], times: int, every: int) -> None:
    """Percent-encoded, whole or in part, once or more: what is shown is what would be shown of it decoded."""
    text = "".join(token)
    assert without_secrets(f"/a%20b/{encoded(text, times, every)}?x") == f"/a%20b/{without_secrets(text)}?x"


@pytest.mark.parametrize(
    "text", ["inv_", "sk_live_7Hq2mB9xT_a", "whsec_", "%25", "%2573", "ses_7Hq2mB9x", "inv_7Hq2mB9xT_-"]
)
def test_the_cost_is_linear_in_the_text(text: str) -> None:
    """A megabyte of what resembles credentials is done within the test's time; the square of it would take hours."""
    without_secrets(text * (1_000_000 // len(text)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a%41b",
        "sk_live_7Hq2mB9xT",
        "inv_7Hq2mB9xTabcdefg",
        "ses_",
        "whsec_",
        "/addresses_processed_at",
        "sk_prod_7Hq2mB9xT_a",
    ],
)
def test_what_only_resembles_a_credential_stays(text: str) -> None:
    """Public prefixes, ids and words of other meaning are left as they are."""
    assert without_secrets(text) == text
