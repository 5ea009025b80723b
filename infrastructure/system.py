"""The machine's clock and its randomness: the only place that asks for either."""

import os
from datetime import UTC, datetime
from typing import TypeVar

from domain.ids import ENTROPY_BYTES_MIN, Id

AnyId = TypeVar("AnyId", bound=Id)


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        """This instant, aware, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the only now()


class SystemEntropy:
    """The operating system's generator for cryptography."""

    def bytes(self, count: int) -> bytes:
        """That many random bytes."""
        return os.urandom(count)  # noqa: TID251 - the only randomness

    def new(self, kind: type[AnyId]) -> AnyId:
        """A fresh id of that kind."""
        return kind.from_entropy(self.bytes(ENTROPY_BYTES_MIN))
