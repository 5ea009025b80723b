"""What is known of a key, as authentication reads it."""

from typing import Any

from domain.access import Plan
from domain.credential import Environment
from domain.verdict import KeyFacts
from tests.kit.builders import account_id, key_id


def facts(*, key: int = 1, account: int = 1, **values: Any) -> KeyFacts:
    """An active live key with full access."""
    defaults: dict[str, Any] = {
        "key_id": key_id(key),
        "account_id": account_id(account),
        "environment": Environment.LIVE,
        "name": "Production API",
        "scopes": None,
        "networks": None,
        "disabled": False,
        "revoked_at": None,
        "expires_at": None,
        "retires_at": None,
        "account_suspended": False,
        "plan": Plan.SCALE,
        "position": 1,
        "replaced_by": None,
    }
    return KeyFacts(**(defaults | values))
