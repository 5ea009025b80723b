"""Takes in the successors of keys that fall due, as Keyledger hands them over, and keeps the newest of each lineage.

With WEBHOOK_SECRET as `keyledger webhook create` printed it, and KEYS an existing directory that others cannot read:

    pip install standardwebhooks starlette
    granian --interface asgi --working-dir ops/examples successor_receiver:app
"""

import os
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

WEBHOOK, KEYS = Webhook(os.environ["WEBHOOK_SECRET"]), Path(os.environ["KEYS"])


async def take(request: Request) -> Response:
    """Stores the key, answers, and only then puts it where it is used."""
    try:
        told = WEBHOOK.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        return Response(status_code=401)
    if told["type"] != "key.successor_created":
        return Response(status_code=204)
    stored = KEYS / f"{told['data']['lineage_id']}.stored"
    store(stored, told["data"]["key"])
    return Response(status_code=204, background=BackgroundTask(stored.replace, stored.with_suffix("")))


def store(place: Path, key: str) -> None:
    """On the disk, for this user alone."""
    with open(place, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())


app = Starlette(routes=[Route("/successors", take, methods=["POST"])])
