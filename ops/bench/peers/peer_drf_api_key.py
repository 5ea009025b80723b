"""djangorestframework-api-key: one DRF view behind HasAPIKey, nothing else in Django switched on.

Trimmed in its favour: no middleware, no authenticators, JSON only, one persistent connection per thread.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import contract
import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection

FILL = """
INSERT INTO rest_framework_api_key_apikey (id, prefix, hashed_key, created, name, revoked, expiry_date)
SELECT lpad(n::text, 8, '0') || '.sha512$$' || repeat(md5(n::text), 4), lpad(n::text, 8, '0'),
       'sha512$$' || repeat(md5(n::text), 4), now(), 'filler', false, NULL
FROM generate_series(1, %s) AS n
"""


def configure() -> None:
    """Set Django up; the empty HOST, PORT and USER leave libpq's variables in force."""
    settings.configure(
        SECRET_KEY="not a secret: nothing is signed here",  # noqa: S106 - says itself
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="peer_drf_api_key_urls",
        INSTALLED_APPS=["rest_framework", "rest_framework_api_key"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": os.environ["PGDATABASE"],
                "CONN_MAX_AGE": None,
            }
        },
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": [],
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
            "UNAUTHENTICATED_USER": None,
        },
    )
    django.setup()


def app() -> Callable[..., Any]:
    """The WSGI application; called once in each worker."""
    configure()
    return get_wsgi_application()


def prepare(keys: int, sample: int) -> contract.Prepared:
    """Make the schema by its migrations, the sample by create_key."""
    configure()
    from rest_framework_api_key.models import APIKey  # noqa: PLC0415 - models load only after configure()

    call_command("migrate", verbosity=0)
    made = [APIKey.objects.create_key(name=f"sample {n}") for n in range(sample)]
    with connection.cursor() as cursor:
        cursor.execute(FILL, [keys - sample])
        cursor.execute("ANALYZE")
    return contract.Prepared("Authorization", [contract.SampleKey(row.prefix, f"Api-Key {key}") for row, key in made])


def revoke(key_id: str) -> int:
    """As its guide says: set `revoked` and save the model."""
    configure()
    from rest_framework_api_key.models import APIKey  # noqa: PLC0415 - as above

    key = APIKey.objects.get(prefix=key_id)
    key.revoked = True
    key.save()
    return time.monotonic_ns()


if __name__ == "__main__":
    contract.main(
        {"drf-api-key": contract.Peer(prepare, revoke, "peer_drf_api_key:app", "wsgi", ("--blocking-threads", "4"))}
    )
