"""Revokes one key from a process of its own, and prints when that had answered: the peers' contract.

python ops/bench/revoke.py KEY_ID          with the service's settings in the environment
"""

import json
import sys
import time
from contextlib import ExitStack

from domain.api_key import RevocationReason
from domain.events import Origin
from domain.ids import KeyId
from interfaces.bootstrap import management, open_core, open_database
from interfaces.settings import Settings


def main() -> None:
    """Revokes it, whoever owns it."""
    key_id = KeyId(sys.argv[1])
    with ExitStack() as stack:
        settings = Settings.read()
        conninfo, _ = open_database(settings, stack)
        core = open_core(settings, conninfo, stack)
        manage = management(core)
        view = core.keys.find(key_id)
        if view is None:
            raise SystemExit(f"{key_id} is unknown")
        by = Origin("cli:bench", manage.new_request_id(), manage.clock.now())
        manage.keys.revoke(account_id=view.account_id, key_id=key_id, reason=RevocationReason.OTHER, note=None, by=by)
        print(json.dumps({"key_id": key_id, "returned_ns": time.monotonic_ns()}), flush=True)


if __name__ == "__main__":
    main()
