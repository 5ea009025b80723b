"""Standard Webhooks: the secret, and the signature of one attempt (https://www.standardwebhooks.com, version 1).

whsec_<base64 of 32 bytes>       v1,<base64 of HMAC-SHA256 over "id.timestamp.body">
"""

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from domain.credential import Secret

SECRET_BYTES: Final = 32
PREFIX: Final = "whsec_"


def webhook_secret(entropy: bytes) -> Secret:
    """The secret that these 32 bytes make; other lengths raise ValueError."""
    if len(entropy) != SECRET_BYTES:
        raise ValueError(f"a webhook secret is made of {SECRET_BYTES} bytes")
    return Secret(PREFIX + base64.b64encode(entropy).decode("ascii"), PREFIX)


def secret_bytes(secret: Secret) -> bytes:
    """The bytes that sign, and that are sealed for storage."""
    return base64.b64decode(secret.reveal().removeprefix(PREFIX))


def signed_headers(message_id: str, at: datetime, body: bytes, secrets: Sequence[Secret]) -> dict[str, str]:
    """The three headers of an attempt at that time; one signature for each secret, so that any of them verifies it."""
    timestamp = str(int(at.timestamp()))
    content = f"{message_id}.{timestamp}.".encode("ascii") + body
    signatures = (base64.b64encode(hmac.digest(secret_bytes(each), content, "sha256")) for each in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature.decode('ascii')}" for signature in signatures),
    }
