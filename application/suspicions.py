"""What refused attempts say about keys: one that is attacked, and one that is still presented after its end.

Level-triggered like every sweep; each fact goes on record at most once a day for a key. What breaks one key's is raised
once all had their turn.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial

from application.ledger import Ledger
from application.ports import Clock, Entropy
from application.turns import each_its_turn
from application.usage_ports import RefusedAttempts
from domain.api_key import ApiKey
from domain.events import Origin
from domain.ids import KeyId, RequestId

LOOK_BACK = timedelta(minutes=10)
LOOK_BACK_MAX = timedelta(days=1)
BATCH = 500


class Suspicions:
    """The sweeps over refused attempts; each answers how many facts it put on record.

    ``swept_at``: when the last sweep for ended keys that ended well began; None when that is not known.
    """

    def __init__(  # noqa: PLR0913 - its ports, and a threshold
        self,
        *,
        ledger: Ledger,
        refused: RefusedAttempts,
        clock: Clock,
        entropy: Entropy,
        attack_threshold: int,
        swept_at: Callable[[], datetime | None],
    ) -> None:
        self._ledger = ledger
        self._refused = refused
        self._clock = clock
        self._entropy = entropy
        self._attack_threshold = attack_threshold
        self._swept_at = swept_at

    def note_attacks(self) -> int:
        """Records the keys whose failed attempts of the last ten minutes pass the threshold.

        Refused credentials count, and a client outside the key's networks; a good key that lacks a scope, or whose plan
        lacks the feature, does not. The threshold is of ten minutes: an attack that began and ended while nobody swept
        is not put on record.
        """
        by = self._origin()
        since = by.at - LOOK_BACK
        return self._note_each(
            (key_id, partial(ApiKey.note_attack, failed_attempts=attempts, since=since, by=by))
            for key_id, attempts in self._refused.attacked(since, self._attack_threshold, BATCH)
        )

    def note_presented_after_end(self) -> int:
        """Records the revoked and expired keys that were presented since ten minutes before the last sweep.

        At most in the last day, and in all of it when no sweep is known.
        """
        by = self._origin()
        earliest = by.at - LOOK_BACK_MAX
        since = max(earliest, min(self._swept_at() or earliest, by.at) - LOOK_BACK)
        noted = 0
        while newly := self._note_each(  # to the last: what is older than ten minutes is not looked for again
            (key_id, partial(ApiKey.note_presented_after_end, attempts=attempts, last_at=last_at, by=by))
            for key_id, attempts, last_at in self._refused.presented_after_end(since, BATCH)
        ):
            noted += newly
        return noted

    def _note_each(self, found: Iterable[tuple[KeyId, Callable[[ApiKey], None]]]) -> int:
        noted = 0
        with each_its_turn() as fenced:
            for key_id, note in found:
                with fenced(key_id):
                    _, position = self._ledger.change(ApiKey, key_id, note)
                    noted += position is not None
        return noted

    def _origin(self) -> Origin:
        request_id = RequestId.from_entropy(self._entropy.bytes(16))
        return Origin("system:suspicion", request_id, self._clock.now())
