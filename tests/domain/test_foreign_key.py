"""Keys of another system: which hashes and prefixes are read, and that what was read does not print."""

import hashlib
from datetime import timedelta

import pytest

from domain.api_key_events import Imported
from domain.foreign_key import BCRYPT, PREFIX_CHARACTERS_MAX, Algorithm, ForeignHash, parse_prefix, sha256_verifier
from domain.key_status import KeyStatus
from domain.naming import Name
from tests.kit.builders import NOON, an_imported_key, origin

SALT_AND_HASH = "wDC8AO9A5luLIOoJGAjxi.en3y8Wvk9X1w.vNYgvTMZA3S01s//tO"
DAY = timedelta(days=1)


@pytest.mark.parametrize("head", ["$2a$04$", "$2b$10$", "$2y$12$", "$2b$14$"])
def test_a_bcrypt_hash_is_kept_as_it_is(head: str) -> None:
    """The three names of one function, and every cost that can be paid."""
    made = ForeignHash.parse(Algorithm.BCRYPT, head + SALT_AND_HASH)
    assert made.verifier == head + SALT_AND_HASH
    assert made.sha256 is None
    assert made.verifier_digest == hashlib.sha256(made.verifier.encode()).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        SALT_AND_HASH,
        f"$2x$10${SALT_AND_HASH}",
        f"$2$10${SALT_AND_HASH}",
        f"$2b$03${SALT_AND_HASH}",
        f"$2b$15${SALT_AND_HASH}",
        f"$2b$10${SALT_AND_HASH[:-1]}",
        f"$2b$10${SALT_AND_HASH}\n",
        f" $2b$10${SALT_AND_HASH}",
        f"$2b$10${SALT_AND_HASH[:21]}/{SALT_AND_HASH[22:]}",
        f"$2b$1\u0660${SALT_AND_HASH}",
        "0" * 64,
    ],
)
def test_what_is_no_bcrypt_hash_is_refused_without_a_word_of_it(text: str) -> None:
    """Faulty implementations, costs out of bounds, salts that cannot be, and anything cut or added."""
    with pytest.raises(ValueError, match="must be") as refused:
        ForeignHash.parse(Algorithm.BCRYPT, text)
    assert SALT_AND_HASH[:8] not in str(refused.value)


def test_a_sha256_is_read_in_either_case() -> None:
    """The verifier is in one case, so that the same key is the same text."""
    digest = hashlib.sha256(b"secret")
    for text in (digest.hexdigest(), digest.hexdigest().upper()):
        made = ForeignHash.parse(Algorithm.SHA256, text)
        assert made.sha256 == digest.digest()
        assert made.verifier == sha256_verifier(b"secret")
        assert made.is_of("secret")
        assert not made.is_of("Secret")


@pytest.mark.parametrize(
    "text", ["", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n", "\u0660" * 64, f"sha256:{'0' * 57}"]
)
def test_what_is_no_sha256_is_refused(text: str) -> None:
    """64 hexadecimal digits and nothing else."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ForeignHash.parse(Algorithm.SHA256, text)


def test_a_hash_does_not_print() -> None:
    """It is no secret that opens a door, and still nobody's to read."""
    made = ForeignHash.parse(Algorithm.SHA256, "0" * 64)
    assert "0000" not in f"{made} {made!r}"
    assert not ForeignHash.parse(Algorithm.BCRYPT, f"$2b$10${SALT_AND_HASH}").is_of("secret")


@pytest.mark.parametrize(("algorithm", "least"), [(Algorithm.BCRYPT, 4), (Algorithm.SHA256, 2)])
def test_a_prefix_is_long_enough_to_look_for_and_too_short_to_be_a_secret(algorithm: Algorithm, least: int) -> None:
    """Visible ASCII within the bounds; what cannot stand in a bearer token is refused."""
    for length in (least, PREFIX_CHARACTERS_MAX):
        assert parse_prefix("~" * length, algorithm) == "~" * length
    for text in ("~" * (least - 1), "~" * (PREFIX_CHARACTERS_MAX + 1), "abc de", "abcdé", "abcd\n", "\0abcd"):
        with pytest.raises(ValueError, match="must"):
            parse_prefix(text, algorithm)


def test_the_costs_that_are_read_can_be_paid() -> None:
    """The vault holds no verifier that would take longer than about a second."""
    costs = [cost for cost in range(32) if BCRYPT.fullmatch(f"$2b${cost:02d}${SALT_AND_HASH}")]
    assert costs == list(range(4, 15))


def test_the_life_of_an_imported_key_begins_with_its_import() -> None:
    """It is active, its own lineage, and as old as it was told to be; without a time its age counts from the import."""
    key = an_imported_key(external_id=Name("k-17"), created_at=NOON - 89 * DAY)
    (imported,) = key.pending_events
    assert isinstance(imported, Imported)
    assert (imported.algorithm, imported.external_id, imported.timestamp) == ("sha256", "k-17", NOON)
    assert (key.status(NOON), key.status(NOON + DAY)) == (KeyStatus.ACTIVE, KeyStatus.ROTATION_DUE)
    assert (key.lineage_id, key.replaces) == (key.key_id, None)
    assert an_imported_key().rotation_due_at == NOON + 90 * DAY


def test_an_imported_key_takes_every_command() -> None:
    """It is an API key like any other."""
    key = an_imported_key()
    key.rename(Name("Billing"), by=origin())
    key.disable(by=origin())
    key.enable(by=origin())
    key.expire(by=origin())
    assert (key.name, key.version) == ("Billing", 4)
