"""What falls due when, and the command it sends.

Each sweep is level-triggered: it asks the view what is due *now* and commands those keys, so a missed run repairs
itself and a repeated one does nothing. Authentication does not wait for it: what the clock alone decides holds from
its instant; the sweep puts it on record.
"""

from collections.abc import Callable, Sequence
from functools import partial

from application.ledger import Ledger
from application.ports import Clock, DueKeys, Entropy
from application.turns import each_its_turn
from domain.api_key import ApiKey
from domain.events import Origin
from domain.ids import KeyId, RequestId

BATCH = 500

Command = Callable[[ApiKey], None]


class Deadlines:
    """The sweeps over keys; each answers how many keys it commanded.

    What breaks one key is raised once all had their turn; UnavailableError at once, for it holds for all of them.
    """

    def __init__(self, *, ledger: Ledger, due: DueKeys, clock: Clock, entropy: Entropy) -> None:
        self._ledger = ledger
        self._due = due
        self._clock = clock
        self._entropy = entropy

    def retire(self) -> int:
        """Records the end of every grace period that is over."""
        by = self._origin("system:retirement")
        return self._sweep(partial(self._due.to_retire, by.at, BATCH), lambda key: key.retire(by=by))

    def expire(self) -> int:
        """Records every expiry that has passed."""
        by = self._origin("system:expiry")
        return self._sweep(partial(self._due.to_expire, by.at, BATCH), lambda key: key.expire(by=by))

    def announce_expiry(self) -> int:
        """Says of every key that its expiry is near, a week and a day ahead."""
        by = self._origin("system:expiry")
        return self._sweep(partial(self._due.to_announce, by.at, BATCH), lambda key: key.announce_expiry(by=by))

    def flag_rotation(self) -> int:
        """Flags every key that has reached the age at which it is to be rotated."""
        by = self._origin("system:rotation")
        return self._sweep(partial(self._due.to_flag, by.at, BATCH), lambda key: key.fall_due(by=by))

    def begin_grace(self) -> int:
        """Starts the grace periods that waited for the successor's first use."""
        by = self._origin("system:rotation")
        begun = 0
        with each_its_turn() as fenced:
            for key_id, first_use in self._due.to_begin_grace(BATCH):
                with fenced(key_id):
                    begun += self._has_news(key_id, partial(ApiKey.begin_grace, first_use=first_use, by=by))
        return begun

    def _origin(self, actor: str) -> Origin:
        return Origin(actor, RequestId.from_entropy(self._entropy.bytes(16)), self._clock.now())

    def _sweep(self, due: Callable[[], Sequence[KeyId]], command: Command) -> int:
        commanded = 0
        with each_its_turn() as fenced:
            while batch := due():
                news = 0
                for key_id in batch:
                    with fenced(key_id):
                        news += self._has_news(key_id, command)
                commanded += news
                if not news:
                    # The view and the aggregates disagree on what is due, or none can be read: not a reason to spin.
                    break
        return commanded

    def _has_news(self, key_id: KeyId, command: Command) -> bool:
        return self._ledger.change(ApiKey, key_id, command)[1] is not None
