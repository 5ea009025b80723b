"""Tags, receipts, log hashes, cursors, bcrypt and the file of root secrets."""

import hmac
import json
import pickle
import re
import stat
import subprocess
import sys
import traceback
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.credential import Environment, mint_key, parse_key
from domain.ids import AccountId, RequestId, base62
from infrastructure.hashing import (
    BcryptVerifier,
    Fingerprints,
    Purpose,
    SecretFileError,
    SecretRing,
    hkdf_sha256,
    load_or_create,
)
from infrastructure.system import SystemClock, SystemEntropy

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
RING = SecretRing([OLD])
ROTATED = SecretRing([NEW, OLD])
REPLACED = SecretRing([NEW])
RAW = b"sk_live_7Hq2mB9xT_" + b"0123456789ABCDEFGHIJKLMNOPQRSTUV" + b"abcdefghijk"
BCRYPT = BcryptVerifier(cost=10)


@pytest.mark.parametrize(
    ("secret", "salt", "info", "length", "expected"),
    [
        pytest.param(
            b"\x0b" * 22,
            bytes(range(0x0D)),
            bytes(range(0xF0, 0xFA)),
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            id="A.1",
        ),
        pytest.param(
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            id="A.2",
        ),
        pytest.param(
            b"\x0b" * 22,
            b"",
            b"",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            id="A.3",
        ),
    ],
)
def test_hkdf_is_rfc_5869(secret: bytes, salt: bytes, info: bytes, length: int, expected: str) -> None:
    """The derivation gives the SHA-256 vectors of RFC 5869, appendix A."""
    assert hkdf_sha256(secret, salt=salt, info=info, length=length).hex() == expected


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_hkdf_refuses_lengths_outside_the_rfc(length: int) -> None:
    """Nothing, and more than 255 blocks, are not derived."""
    with pytest.raises(ValueError, match="HKDF"):
        hkdf_sha256(OLD, salt=b"", info=b"", length=length)


def subkey(secret: bytes, purpose: str) -> bytes:
    return hkdf_sha256(secret, salt=b"keyledger", info=f"keyledger/1/{purpose}".encode(), length=32)


@given(st.binary(max_size=80), st.binary(min_size=32, max_size=32))
def test_a_fingerprint_is_of_one_credential_and_one_key(raw: bytes, key: bytes) -> None:
    """The same for the same, another for another credential or for any other half of the key."""
    name = Fingerprints(key).of(raw)
    assert name == Fingerprints(key).of(raw)
    assert Fingerprints(key).of(raw + b"\0") != name
    for place in (0, 31):
        other = key[:place] + bytes([key[place] ^ 1]) + key[place + 1 :]
        assert Fingerprints(other).of(raw) != name


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_fingerprints_has_one_length(length: int) -> None:
    """What is shorter, or nothing, would name credentials so that they could be guessed."""
    with pytest.raises(ValueError, match="32 bytes"):
        Fingerprints(bytes(length))


def test_the_derivation_never_changes() -> None:
    """Pinned values: were they to change, every key, receipt, log hash and cursor in the world would be void."""
    assert RING.tag(RAW[:-11]) == b"7Ak9ystxM4A"
    assert RING.receipt(RAW).hex() == "fdd91084f73fd572314a6280344ca075cc149db36942819e88dc3f5f9792b6a2"
    purposes = ["tag", "receipt", "cursor", "log", "session", "link", "seal", "name"]
    assert [purpose.value for purpose in Purpose] == purposes
    assert RING.fingerprints[0] == "3d0a55926d621e496b56793d8d03fe99"
    assert RING.seal_cursor(b"page 2") == "BeuBhWaFbQ1eAJ5G7WjVI3BhZ2UgMg"
    assert RING.seal_link(b"page 2") == "ZvCdigf7Da3ocCum297RmXBhZ2UgMg"
    assert RING.log_hash(RAW) == "76cc5d454e3d0e9292e0ab16cfab8ef2"


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=64))
def test_values_are_hmac_sha256_under_their_subkey(raw: bytes, secret: bytes) -> None:
    """Tag, receipt and log hash are RFC 2104 as the standard library computes it, each under its own subkey."""
    ring = SecretRing([secret])
    mac = {purpose: hmac.digest(subkey(secret, purpose), raw, "sha256") for purpose in Purpose}
    assert ring.tag(raw) == base62(int.from_bytes(mac[Purpose.TAG][:8], "big"), 11).encode()
    assert ring.receipt(raw) == mac[Purpose.RECEIPT]
    assert ring.log_hash(raw) == mac[Purpose.LOG].hex()[:32]
    assert len({subkey(secret, purpose) for purpose in Purpose}) == len(Purpose)


@given(st.sampled_from(Environment), st.binary(min_size=32, max_size=32), st.data())
def test_a_key_changed_in_one_place_is_refused(environment: Environment, entropy: bytes, data: st.DataObject) -> None:
    """A minted key passes grammar and tag; with any one byte changed to any other it does not."""
    secret = mint_key(environment, id_entropy=entropy[:16], secret_entropy=entropy, tag=RING.tag)[1]
    raw = secret.reveal().encode()
    genuine = parse_key(raw)
    assert genuine is not None
    assert RING.tag_is_valid(genuine.signed, genuine.tag)
    place = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    changed = parse_key(raw[:place] + bytes([byte]) + raw[place + 1 :])
    assert changed is None or not RING.tag_is_valid(changed.signed, changed.tag)


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_made_up_tags_and_receipts_are_refused(raw: bytes, made_up: bytes) -> None:
    """Bytes of any length that the ring did not make are refused, without an error."""
    assert RING.tag_is_valid(raw, made_up) == (made_up == RING.tag(raw))
    assert RING.receipt_is_valid(raw, made_up) == (made_up == RING.receipt(raw))
    assert not RING.tag_is_valid(raw, b"\xff" * 11)
    assert not RING.receipt_is_valid(raw, b"\xff" * 32)
    assert not RING.receipt_is_valid(raw, made_up[:31])


def test_an_old_secret_is_accepted_until_it_leaves_the_ring() -> None:
    """An older secret's values stay valid, new ones are made with the newest, and a removed secret proves nothing."""
    tag, receipt, cursor = RING.tag(RAW), RING.receipt(RAW), RING.seal_cursor(b"page 2")
    assert ROTATED.tag_is_valid(RAW, tag)
    assert ROTATED.receipt_is_valid(RAW, receipt)
    assert ROTATED.receipt(RAW) == REPLACED.receipt(RAW) != receipt
    assert ROTATED.open_cursor(cursor) == b"page 2"
    assert ROTATED.tag(RAW) == REPLACED.tag(RAW) != tag
    assert not REPLACED.tag_is_valid(RAW, tag)
    assert not REPLACED.receipt_is_valid(RAW, receipt)
    assert REPLACED.open_cursor(cursor) is None


@given(st.binary(max_size=360))
def test_a_cursor_is_opened_as_it_was_sealed(payload: bytes) -> None:
    """A sealed payload comes back whole, in text that a URL takes as it is."""
    text = RING.seal_cursor(payload)
    assert RING.open_cursor(text) == payload
    assert re.fullmatch(r"[-_0-9A-Za-z]{1,512}", text)


@given(st.binary(max_size=100), st.data())
def test_a_changed_cursor_is_refused(payload: bytes, data: st.DataObject) -> None:
    """A cursor with any one character changed, added or cut is none; so is its last character's other spelling."""
    text = RING.seal_cursor(payload)
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters().filter(lambda character: character != text[place]))
    assert RING.open_cursor(text[:place] + character + text[place + 1 :]) is None
    assert RING.open_cursor(text + character) is None
    assert RING.open_cursor(text[:-1]) is None


@given(st.text(max_size=600))
def test_arbitrary_text_is_no_cursor(text: str) -> None:
    """Whatever text is sent as a cursor, nothing is raised."""
    assert RING.open_cursor(text) is None


def test_the_length_of_a_cursor_is_bounded() -> None:
    """A payload that needs more than 512 characters is not sealed, and longer text is not looked at."""
    assert RING.open_cursor(RING.seal_cursor(bytes(368))) == bytes(368)
    assert RING.open_cursor(RING.seal_cursor(bytes(368)) + "A") is None
    with pytest.raises(ValueError, match="512 characters"):
        RING.seal_cursor(bytes(369))


def test_secrets_are_read_from_hex_and_base64url() -> None:
    """The same secret in hex of either case and in base64url, padded or not, makes the same ring."""
    secret = bytes(range(200, 232))
    texts = [secret.hex(), secret.hex().upper(), "yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc="]
    for text in [*texts, texts[2].rstrip("=")]:
        assert SecretRing.from_texts([text]).tag(RAW) == SecretRing([secret]).tag(RAW)


@pytest.mark.parametrize(
    "texts",
    [[], [""], ["hunter2hunter2"], ["00" * 31], ["zz" * 40 + "!"], ["é" * 64], ["00" * 32, "00"], ["\u0660" * 64]],
)
def test_weak_or_unreadable_secrets_are_refused_without_repeating_them(texts: list[str]) -> None:
    """No secret, a short one and an unreadable one stop the start, and the message does not hold the text."""
    with pytest.raises(ValueError, match="secret") as refusal:
        SecretRing.from_texts(texts)
    shown = "".join(traceback.format_exception_only(refusal.value))
    assert not any(text in shown for text in texts if text)


def test_a_ring_is_never_printed_or_written() -> None:
    """A ring shows how many secrets it has; no serialiser takes it, and its printed form never holds a byte of them."""
    assert repr(ROTATED) == str(ROTATED) == f"{ROTATED}" == "SecretRing(2 secrets)"
    writers: list[Any] = [pickle.dumps, json.dumps, msgspec.json.encode, vars, lambda ring: ring.__getstate__()]
    for write in writers:
        with pytest.raises(TypeError):
            write(ROTATED)


def test_bcrypt_verifies_what_it_hashed_and_nothing_else() -> None:
    """A verifier accepts its own bytes alone, and two verifiers of one credential differ."""
    verifier = BCRYPT.hash(RAW)
    assert re.fullmatch(r"\$2b\$10\$[./0-9A-Za-z]{53}", verifier)
    assert BCRYPT.verify(RAW, verifier)
    assert not BCRYPT.verify(RAW[:-1] + b"l", verifier)
    assert BCRYPT.hash(RAW) != verifier


def test_a_verifier_of_another_cost_is_accepted() -> None:
    """Raising the cost leaves the verifiers that were made before valid."""
    assert BcryptVerifier(cost=11).verify(RAW, BCRYPT.hash(RAW))


def test_bcrypt_takes_72_bytes_and_tells_the_last_of_them() -> None:
    """A verifier of ours, and one that another system made."""
    raw = b"a" * 72
    for verify, verifier in (
        (BCRYPT.verify, BCRYPT.hash(raw)),
        (BCRYPT.verify_foreign, bcrypt.hashpw(raw, bcrypt.gensalt(4)).decode()),
    ):
        assert verify(raw, verifier)
        assert not verify(raw[:-1] + b"b", verifier)


@pytest.mark.parametrize("raw", [b"", b"a" * 73, b"a\0", b"\0"])
def test_bcrypt_is_not_asked_what_it_cannot_tell(raw: bytes) -> None:
    """Nothing, more than 72 bytes and NUL bytes are refused before any hash."""
    with pytest.raises(ValueError, match="bcrypt takes"):
        BCRYPT.hash(raw)
    assert not BCRYPT.verify(raw, BCRYPT.hash(b"a"))


@pytest.mark.parametrize(
    "verifier",
    [
        "",
        "plain",
        "$2b$10$",
        "$2b$04$" + "." * 53,
        "$2b$17$" + "." * 53,
        "$2b$31$" + "." * 53,
        "$2a$10$" + "." * 53,
        "$2b$10$" + "z" * 53,
        "$2b$10$" + "." * 53 + "\n",
        "$2b$10$" + "é" * 53,
    ],
)
def test_a_malformed_verifier_accepts_nothing(verifier: str) -> None:
    """A damaged, weak or endlessly expensive verifier refuses, without an error."""
    assert not BCRYPT.verify(RAW, verifier)


@pytest.mark.parametrize("variant", ["2a", "2b", "2y"])
def test_a_bcrypt_hash_of_another_system_is_verified_at_its_own_cost(variant: str) -> None:
    """Under each of the function's three names; and the same bounds on what is asked hold."""
    verifier = bcrypt.hashpw(RAW, bcrypt.gensalt(4)).decode().replace("$2b$", f"${variant}$")
    assert BCRYPT.verify_foreign(RAW, verifier)
    assert not BCRYPT.verify_foreign(RAW + b"x", verifier)
    for raw in (b"", b"a" * 73, b"a\0"):
        assert not BCRYPT.verify_foreign(raw, bcrypt.hashpw(b"a", bcrypt.gensalt(4)).decode())


@pytest.mark.parametrize("verifier", ["", "$2x$10$" + "." * 53, "$2b$15$" + "." * 53, "$2b$10$" + "z" * 53, "sha256:0"])
def test_a_hash_that_no_import_takes_is_never_computed(verifier: str) -> None:
    """Whatever stands in the vault."""
    assert not BCRYPT.verify_foreign(RAW, verifier)


@pytest.mark.parametrize("cost", [0, 4, 9, 17, 31])
def test_the_cost_is_bounded(cost: int) -> None:
    """A cost under 10 is too weak to be configured, one over 16 too slow."""
    with pytest.raises(ValueError, match="cost"):
        BcryptVerifier(cost=cost)


def test_a_secret_file_is_made_once_and_read_again(tmp_path: Path) -> None:
    """The first start makes one file of mode 0600 with a fresh secret, and no draft; the next start reads the same."""
    path = tmp_path / "secret-keys"
    first = load_or_create(path, SystemEntropy())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())
    assert load_or_create(path, SystemEntropy()).receipt(RAW) == first.receipt(RAW)
    assert list(tmp_path.iterdir()) == [path]
    assert load_or_create(tmp_path / "other", SystemEntropy()).receipt(RAW) != first.receipt(RAW)


START = """
import sys
from pathlib import Path
from infrastructure.hashing import load_or_create
from infrastructure.system import SystemEntropy
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
sys.stdout.write(load_or_create(Path(sys.argv[1]), SystemEntropy()).log_hash(b"one") + "\\n")
"""


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    """Of ten processes that find no file at the same time, all use the one secret that is in it afterwards."""
    root = Path(__file__).parents[2]
    path = tmp_path / "secret-keys"
    command = [sys.executable, "-c", START, str(path)]
    processes = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(10)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        hashes = {process.communicate(timeout=60)[0].strip() for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0] * 10
    assert hashes == {load_or_create(path, SystemEntropy()).log_hash(b"one")}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_secret_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    """A file with any right for group or others stops the start, and the message says how to put it right."""
    path = tmp_path / "secret-keys"
    load_or_create(path, SystemEntropy())
    path.chmod(mode)
    with pytest.raises(SecretFileError, match="chmod 600"):
        load_or_create(path, SystemEntropy())


@pytest.mark.parametrize("content", [b"", b"\n", b"hunter2", b"00" * 31, b"\xff" * 64, b"00" * 40_000])
def test_a_damaged_secret_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    """A file without good secrets stops the start, is not repeated in the message, and is never replaced."""
    path = tmp_path / "secret-keys"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(SecretFileError) as refusal:
        load_or_create(path, SystemEntropy())
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))
    assert path.read_bytes() == content


def test_a_secret_file_may_hold_several_secrets(tmp_path: Path) -> None:
    """One secret a line, newest first, so that the secret of an embedded service can be rotated by hand."""
    path = tmp_path / "secret-keys"
    path.touch(mode=0o600)
    path.write_text(f"{NEW.hex()}\n{OLD.hex()}\n")
    ring = load_or_create(path, SystemEntropy())
    assert ring.receipt(RAW) == REPLACED.receipt(RAW)
    assert ring.receipt_is_valid(RAW, RING.receipt(RAW))


def test_the_clock_is_aware_and_in_utc() -> None:
    """Instants carry their zone, UTC, and go forward."""
    clock = SystemClock()
    first = clock.now()
    assert first.tzinfo is UTC
    assert timedelta() <= clock.now() - first < timedelta(minutes=1)


def test_entropy_gives_what_was_asked_for_and_never_twice() -> None:
    """Bytes in the asked number, ids of the asked kind, no two alike."""
    entropy = SystemEntropy()
    assert [len(entropy.bytes(count)) for count in (0, 1, 32)] == [0, 1, 32]
    ids = {entropy.new(AccountId) for _ in range(1000)}
    assert len(ids) == 1000
    assert type(entropy.new(RequestId)) is RequestId


@given(st.binary(max_size=100))
def test_a_cursor_is_no_link_and_a_link_no_cursor(payload: bytes) -> None:
    """Each opens as what it was sealed as, and as nothing else."""
    assert RING.open_link(RING.seal_link(payload)) == payload
    assert RING.open_link(RING.seal_cursor(payload)) is None
    assert RING.open_cursor(RING.seal_link(payload)) is None
