"""The secret of a webhook, and the signature of an attempt, as Standard Webhooks 1 has them."""

from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from domain.webhook_signature import SECRET_BYTES, secret_bytes, signed_headers, webhook_secret

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def test_a_secret_is_its_bytes_in_base64() -> None:
    """Under the prefix that says what it is, and back."""
    secret = webhook_secret(OLD)
    assert secret.reveal() == "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert secret_bytes(secret) == OLD


@pytest.mark.parametrize("length", [0, SECRET_BYTES - 1, SECRET_BYTES + 1])
def test_a_secret_has_one_length(length: int) -> None:
    """Neither less nor more."""
    with pytest.raises(ValueError, match="32 bytes"):
        webhook_secret(bytes(length))


def test_each_secret_verifies_what_was_signed_with_all() -> None:
    """By the package that receivers use; what another secret signed is refused."""
    secrets = [webhook_secret(NEW), webhook_secret(OLD)]
    headers = signed_headers("msg_1", datetime.now(UTC), b'{"a":1}', secrets)
    for secret in secrets:
        assert Webhook(secret.reveal()).verify('{"a":1}', headers) == {"a": 1}
    assert [each.partition(",")[0] for each in headers["webhook-signature"].split(" ")] == ["v1", "v1"]
