"""The memory of verified keys: in whatever order reads, changes and time come, it tells nothing that has ended."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from application.verified_keys import TOMBSTONES_MAX, Change, Lease, VerifiedKey, VerifiedKeys
from tests.kit.builders import account_id, key_id
from tests.kit.verified import facts

KEYS = (1, 2, 3, 4)
ACCOUNTS = (1, 2)
OWNERS = {1: 1, 2: 1, 3: 2, 4: 2}


@dataclass(slots=True)
class Elapsed:
    """A clock that moves when told to."""

    seconds: float = 0.0

    def __call__(self) -> float:
        """The seconds it was set to."""
        return self.seconds


class Notes:
    """A board on which a test tells what it wants, and loses it."""

    def __init__(self) -> None:
        self.marks = [0]
        self.readings = 0
        self._news: list[Change] = []
        self._is_whole = True

    def tell(self, *changes: Change) -> None:
        """As another process would."""
        self.marks[0] += 1
        self._news += changes

    def lose(self) -> None:
        """More than is kept has been told."""
        self.marks[0] += 1
        self._is_whole = False

    def read(self) -> list[Change] | None:
        """The port's."""
        self.readings += 1
        news, is_whole = self._news, self._is_whole
        self._news, self._is_whole = [], True
        return news if is_whole else None


@dataclass(slots=True)
class Memory:
    """A memory under test, with its clock and its board."""

    capacity: int = 10
    elapsed: Elapsed = field(default_factory=Elapsed)
    notes: Notes = field(default_factory=Notes)
    keys: VerifiedKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = VerifiedKeys(capacity=self.capacity, fingerprint=bytes, elapsed=self.elapsed, board=self.notes)


def a_verified_key(number: int = 1, *, position: int = 1) -> VerifiedKey:
    return VerifiedKey(facts(key=number, account=OWNERS.get(number, 1), position=position), "hash")


def fingerprint(number: int) -> bytes:
    return b"%d" % number


class Interleavings(RuleBasedStateMachine):
    """Reads, changes, their application or telling and the end of reads, in any order.

    Each fact remembers the position of the change that made it so: what the memory tells must be at least as new as
    everything that was applied, or told.
    """

    def __init__(self) -> None:
        super().__init__()
        memory = Memory(capacity=3)
        self.memory, self.notes = memory.keys, memory.notes
        self.ledger: list[Change] = [Change(1, "other")]
        self.told: set[int] = set()
        self.reads: list[tuple[int, VerifiedKey, int]] = []
        self.memory.start_at(1)

    def truth(self, number: int, through: int) -> int:
        """The position of the last change to the key or its account, up to a position or told; 1 when there is none."""
        streams = (key_id(number), account_id(OWNERS[number]))
        known = (c for c in self.ledger if c.position <= through or c.position in self.told)
        return max([1, *(c.position for c in known if c.stream_id in streams)])

    @property
    def head(self) -> int:
        """The ledger's last position."""
        return self.ledger[-1].position

    @rule(number=st.sampled_from(KEYS))
    def change_key(self, number: int) -> None:
        """A key changes."""
        self.ledger.append(Change(self.head + 1, key_id(number)))

    @rule(number=st.sampled_from(ACCOUNTS))
    def change_account(self, number: int) -> None:
        """An account changes."""
        self.ledger.append(Change(self.head + 1, account_id(number)))

    @rule(number=st.sampled_from(KEYS))
    def begin_read(self, number: int) -> None:
        """A look-up takes its snapshot, and is slow from here."""
        self.reads.append((number, a_verified_key(number, position=self.truth(number, self.head)), self.head))

    @rule(data=st.data())
    def end_read(self, data: st.DataObject) -> None:
        """A look-up, not always the oldest, comes to remember what it read."""
        if self.reads:
            place = data.draw(st.integers(0, len(self.reads) - 1))
            number, key, read_at = self.reads.pop(place)
            self.memory.remember(fingerprint(number), key, read_at=read_at)

    @rule(most=st.integers(1, 4))
    def apply(self, most: int) -> None:
        """The follower applies some of what is new."""
        self.memory.apply([change for change in self.ledger if change.position > self.memory.applied][:most])

    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        """A process tells of a change, later than another of a later one perhaps."""
        change = data.draw(st.sampled_from(self.ledger))
        self.notes.tell(change)
        self.told.add(change.position)

    @rule(number=st.sampled_from(KEYS))
    def change_and_lose(self, number: int) -> None:
        """A key changes, and what is told of it has gone by."""
        self.change_key(number)
        self.notes.lose()
        self.told.add(self.head)

    @rule()
    def start_over(self) -> None:
        """The follower begins anew at the head."""
        self.memory.start_at(self.head)

    @rule(number=st.sampled_from(KEYS))
    def use(self, number: int) -> None:
        """A key is used, which makes it the last to leave."""
        self.memory.recall(fingerprint(number))

    @invariant()
    def nothing_that_has_ended_is_told(self) -> None:
        """What is remembered, and may be believed, holds at the position that was applied, and is as was told."""
        self.memory.extend(1.0)
        is_believed = self.memory.is_fresh
        assert is_believed != self.memory.is_lost
        for number in KEYS:
            known = self.memory.recall(fingerprint(number))
            if known is not None and is_believed:
                assert known.facts.position >= self.truth(number, self.memory.applied)

    @invariant()
    def memory_is_bounded(self) -> None:
        """The capacity holds, for the index, too."""
        assert len(self.memory) <= 3
        named = {name for names in self.memory._of_stream.values() for name in names}
        assert named == set(self.memory._entries)
        assert all(self.memory._of_stream.values())


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_key_is_recalled_as_it_was_read() -> None:
    """What was verified once is known."""
    keys = Memory().keys
    keys.remember(fingerprint(1), a_verified_key(), read_at=0)
    assert keys.recall(fingerprint(1)) == a_verified_key()
    assert keys.recall(fingerprint(2)) is None


def test_a_read_from_before_a_change_does_not_bring_the_key_back() -> None:
    """The change leaves its mark, however late the read comes."""
    keys = Memory().keys
    keys.start_at(5)
    keys.apply([Change(6, key_id(1))])
    assert not keys.remember(fingerprint(1), a_verified_key(), read_at=5)
    assert keys.recall(fingerprint(1)) is None
    assert keys.remember(fingerprint(1), a_verified_key(), read_at=6)


def test_a_change_of_another_key_is_no_reason_to_forget_a_read() -> None:
    """Only what the facts are made of counts."""
    keys = Memory().keys
    keys.start_at(5)
    keys.apply([Change(6, key_id(2)), Change(7, account_id(2))])
    assert keys.remember(fingerprint(1), a_verified_key(), read_at=5)


def test_a_read_older_than_every_mark_is_not_remembered() -> None:
    """Marks are bounded; what they no longer tell is taken for changed."""
    keys = Memory().keys
    keys.start_at(1)
    keys.apply(Change(position, "other") for position in range(2, TOMBSTONES_MAX + 3))
    assert not keys.remember(fingerprint(1), a_verified_key(), read_at=1)
    assert keys.remember(fingerprint(1), a_verified_key(), read_at=2)


def test_a_read_from_before_the_beginning_is_not_remembered() -> None:
    """What happened before the follower began is not known here."""
    keys = Memory().keys
    keys.start_at(5)
    assert not keys.remember(fingerprint(1), a_verified_key(), read_at=4)


def test_the_least_recently_used_leaves_first() -> None:
    """Use counts, not age."""
    keys = Memory(capacity=2).keys
    for number in (1, 2):
        keys.remember(fingerprint(number), a_verified_key(number), read_at=0)
    keys.recall(fingerprint(1))
    keys.remember(fingerprint(3), a_verified_key(3), read_at=0)
    assert [keys.recall(fingerprint(number)) is not None for number in (1, 2, 3)] == [True, False, True]


def test_memory_is_fresh_up_to_the_end_of_the_lease_and_not_at_it() -> None:
    """The end belongs to those who wait for it."""
    memory = Memory()
    assert not memory.keys.is_fresh
    memory.keys.extend(2.0)
    memory.elapsed.seconds = 1.999
    assert memory.keys.is_fresh
    memory.elapsed.seconds = 2.0
    assert not memory.keys.is_fresh


def test_a_lease_is_not_shortened_by_an_older_one_and_ends_when_told() -> None:
    """Renewals may overtake each other; distrust ends them all."""
    memory = Memory()
    memory.keys.extend(2.0)
    memory.keys.extend(1.0)
    assert memory.keys.fresh_for == 2.0
    memory.keys.distrust()
    assert not memory.keys.is_fresh


def test_what_was_told_is_forgotten_before_anything_is_believed() -> None:
    """The key, or all keys of the account; no other."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.keys.extend(2.0)
    for number in KEYS:
        memory.keys.remember(fingerprint(number), a_verified_key(number), read_at=5)
    memory.notes.tell(Change(9, key_id(1)), Change(8, account_id(2)))
    assert memory.keys.is_fresh
    assert [memory.keys.recall(fingerprint(number)) is not None for number in KEYS] == [False, True, False, False]
    assert (memory.keys.applied, memory.keys.known_through) == (5, 9)


def test_a_read_from_before_what_was_told_does_not_bring_the_key_back() -> None:
    """Told ahead of the ledger's order, and the same once the ledger has come so far."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.notes.tell(Change(9, key_id(1)))
    assert memory.keys.known_through == 9
    assert not memory.keys.remember(fingerprint(1), a_verified_key(), read_at=8)
    memory.keys.apply(Change(position, "other") for position in (6, 7, 8))
    assert not memory.keys.remember(fingerprint(1), a_verified_key(), read_at=8)
    memory.keys.apply([Change(9, key_id(1)), Change(10, "other")])
    assert not memory.keys.remember(fingerprint(1), a_verified_key(), read_at=8)
    assert memory.keys.remember(fingerprint(1), a_verified_key(), read_at=9)


def test_what_was_told_later_of_an_earlier_change_hides_no_later_one() -> None:
    """Two processes tell of one key, the earlier change last: a read from between does not bring the key back."""
    memory = Memory()
    memory.keys.start_at(4)
    memory.notes.tell(Change(7, key_id(1)), Change(5, key_id(1)))
    assert memory.keys.known_through == 7
    assert not memory.keys.remember(fingerprint(1), a_verified_key(), read_at=6)
    assert memory.keys.remember(fingerprint(1), a_verified_key(), read_at=7)


def test_a_memory_that_has_missed_something_is_not_believed_until_it_starts_anew() -> None:
    """A renewal that was under way does not help it."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.keys.extend(2.0)
    memory.keys.remember(fingerprint(1), a_verified_key(), read_at=5)
    memory.notes.lose()
    assert not memory.keys.is_fresh
    assert memory.keys.recall(fingerprint(1)) is None
    memory.keys.extend(3.0)
    assert not memory.keys.is_fresh
    memory.keys.start_at(9)
    memory.keys.extend(3.0)
    assert memory.keys.is_fresh


def test_a_false_word_does_not_hide_what_was_told() -> None:
    """Whoever may connect may notify; a change counts as applied only as the ledger has it."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.notes.tell(Change(6, key_id(1)))
    memory.keys.apply_ahead(Change(6, "other"))
    assert (memory.keys.applied, memory.keys.known_through) == (5, 6)
    assert not memory.keys.remember(fingerprint(1), a_verified_key(), read_at=5)


def test_what_is_told_of_another_ledger_than_was_applied_ends_the_trust() -> None:
    """A position that this memory knows as something else: the database was restored, and has gone on."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.keys.apply([Change(6, key_id(1)), Change(7, key_id(2))])
    memory.keys.extend(2.0)
    memory.notes.tell(Change(6, key_id(1)), Change(7, key_id(2)))
    assert memory.keys.is_fresh
    memory.notes.tell(Change(6, key_id(2)))
    assert not memory.keys.is_fresh
    assert memory.keys.is_lost


def test_what_is_told_ahead_is_bounded() -> None:
    """A memory that cannot follow the ledger meanwhile starts anew."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.keys.extend(2.0)
    memory.notes.tell(*(Change(6 + number, f"stream_{number}") for number in range(TOMBSTONES_MAX)))
    assert memory.keys.is_fresh
    memory.notes.tell(Change(6 + TOMBSTONES_MAX, "one_more"))
    assert not memory.keys.is_fresh
    assert not memory.keys._ahead


def test_what_was_told_and_has_been_applied_is_ahead_no_more() -> None:
    """A memory that follows the ledger is believed, however much it is told in its time."""
    memory = Memory()
    memory.keys.start_at(5)
    memory.keys.extend(2.0)
    half = TOMBSTONES_MAX // 2 + 1
    for first in (6, 6 + half):
        changes = [Change(position, f"stream_{position}") for position in range(first, first + half)]
        memory.notes.tell(*changes)
        assert memory.keys.is_fresh
        memory.keys.apply(changes)
    assert not memory.keys._ahead


def test_the_board_is_read_once_for_what_is_told() -> None:
    """Where nothing was told since, asking costs a look at its mark."""
    memory = Memory()
    memory.keys.extend(2.0)
    for tellings in (1, 2):
        memory.notes.tell(Change(tellings, key_id(1)))
        assert [memory.keys.is_fresh for _ in range(3)] == [True] * 3
        assert memory.notes.readings == tellings


def test_nothing_is_remembered_while_changes_are_applied() -> None:
    """A read from before one of them would see some of them alone."""
    keys = Memory().keys
    held: list[bool] = []

    def changes() -> Iterator[Change]:
        for position in (1, 2):
            held.append(keys._lock.locked())
            yield Change(position, key_id(position))

    keys.apply(changes())
    assert held == [True, True]
    assert not keys._lock.locked()


def test_three_renewals_of_a_lease_may_be_lost() -> None:
    """The fourth still comes in time."""
    lease = Lease(2.0)
    assert lease.renewal_seconds * 4 <= lease.seconds


def test_remembering_at_capacity_beside_uses_breaks_nothing() -> None:
    """Look-ups are in threads, uses on the event loop: neither ever meets the other's half-done work."""
    keys = Memory(capacity=8).keys
    stop = Flag()

    def use() -> None:
        while not stop.is_set():
            for number in range(64):
                keys.recall(fingerprint(number))

    user = Thread(target=use)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    user.start()
    try:
        for turn in range(60_000):
            keys.remember(fingerprint(turn % 64), a_verified_key(turn % 64), read_at=0)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        user.join()
    assert len(keys) == 8
