"""The use cases of a running service, from inside the test: for what its API does not offer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast

from interfaces.bootstrap import management, open_core, secret_file
from interfaces.settings import Settings
from tests.kit.http_server import Back, QuickVerifiers
from tests.kit.service import Service


@contextmanager
def inside(service: Service) -> Iterator[Back]:
    """Works on the database of a service that has embedded it, with its root secrets."""
    secrets = secret_file(Settings(data_dir=service.data_dir)).read_text(encoding="ascii").split()
    settings = Settings(database_url=service.conninfo, secret_keys=tuple(secrets), database_connections=2)
    with ExitStack() as stack:
        core = replace(open_core(settings, service.conninfo, stack), verifiers=cast("Any", QuickVerifiers()))
        yield Back(core, management(core))
