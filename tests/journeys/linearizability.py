"""What clients did and saw, and whether it can be true: once the end of a key is answered, every later use is refused.

A key is a register with two values, accepted and refused. Creating and enabling write the one, disabling the other,
and revoking writes it for ever; a use reads. What is demanded of each read is that some order of the writes explains
it that keeps to what was seen: an operation that was answered before another was asked for comes before it. A write
without an answer may have happened at any time since it was asked for, or may still happen, or never.

While an end is under way two reads may disagree in either order (a regular register, Lamport 1986): the promise speaks
of what follows its answer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from time import monotonic_ns

UNKNOWN = 2**63
"""Later than every other time: of an operation that was never answered."""
BEGINS = frozenset({"create", "enable"})
ENDS = frozenset({"disable", "revoke"})
WRITES = BEGINS | ENDS
ACCEPTED, REFUSED, UNAVAILABLE, UNANSWERED, UNEXPECTED = (
    "accepted",
    "refused",
    "unavailable",
    "unanswered",
    "unexpected",
)
OUTCOMES = {200: ACCEPTED, 201: ACCEPTED, 401: REFUSED, 429: REFUSED, 503: UNAVAILABLE}


@dataclass(slots=True)
class Operation:
    """One operation on one key, by one client: nanoseconds of one monotonic clock, and how it was answered.

    ``returned`` is UNKNOWN for a write that was not answered with success: whether it happened is not known.
    """

    kind: str
    key: str
    place: str
    invoked: int
    returned: int = UNKNOWN
    outcome: str = UNANSWERED
    status: int = 0

    def answer(self, status: int, now: int) -> None:
        """What the service said, and when it had been read whole."""
        self.status = status
        self.outcome = OUTCOMES.get(status, UNEXPECTED)
        if self.kind not in WRITES or self.outcome is ACCEPTED:
            self.returned = now


@dataclass(frozen=True, slots=True)
class Violation:
    """An answer that nothing explains."""

    use: Operation
    what: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.what}: {self.use}"


@dataclass(slots=True)
class Phase:
    """A part of the run with one kind of fault."""

    name: str
    began: int
    ended: int = UNKNOWN

    def holds(self, operation: Operation) -> bool:
        """Whether the operation was asked for in it."""
        return self.began <= operation.invoked < self.ended


@dataclass(slots=True)
class History:
    """Every operation of a run, its faults, and its phases."""

    operations: list[Operation] = field(default_factory=list[Operation])
    faults: Counter[str] = field(default_factory=Counter[str])
    phases: list[Phase] = field(default_factory=list[Phase])

    def ask(self, kind: str, key: str, place: str) -> Operation:
        """Notes that an operation is asked for, now; the caller sends it right after."""
        operation = Operation(kind, key, place, monotonic_ns())
        self.operations.append(operation)
        return operation

    def begin_phase(self, name: str) -> Phase:
        """Ends one phase and begins another."""
        now = monotonic_ns()
        if self.phases:
            self.phases[-1].ended = now
        self.phases.append(Phase(name, now))
        return self.phases[-1]

    def count(self, phase: Phase, kind: str, outcome: str, place: str = "") -> int:
        """How many operations of a phase, at one place or at any, were answered so."""
        asked = takewhile(lambda each: each.invoked >= phase.began, reversed(self.operations))
        return sum(
            (each.kind, each.outcome) == (kind, outcome) and phase.holds(each) and place in {"", each.place}
            for each in asked
        )

    def lines(self) -> Iterator[str]:
        """What was done, for people: a line for the whole run and one for each phase."""
        kinds = Counter(operation.kind for operation in self.operations)
        outcomes = Counter(operation.outcome for operation in self.operations)
        faults = ", ".join(f"{count} {name}" for name, count in self.faults.items()) or "none"
        seconds = (self.operations[-1].invoked - self.operations[0].invoked) / 1e9
        yield (
            f"{len(self.operations)} operations in {seconds:.0f} s: "
            + ", ".join(f"{kinds[kind]} {kind}" for kind in ("verify", "revoke", "disable", "enable", "create"))
            + f"; answers: {dict(outcomes)}; statuses: {dict(Counter(each.status for each in self.operations))}"
        )
        yield f"faults: {faults}; reads that disagreed while an end was under way: {disagreements(self.operations)}"
        for phase in self.phases:
            found = Counter(
                (operation.kind, operation.outcome) for operation in self.operations if phase.holds(operation)
            )
            words = (f"{count} {kind} {outcome}" for (kind, outcome), count in sorted(found.items()))
            yield f"  {phase.name}: {', '.join(words)}"


def violations(operations: Iterable[Operation]) -> list[Violation]:
    """Every use whose answer no order of the writes explains."""
    found: list[Violation] = []
    for of_key in _by_key(operations).values():
        writes = [operation for operation in of_key if operation.kind in WRITES]
        for use in of_key:
            if use.kind == "verify":
                what = _fault(use, [write for write in writes if write.invoked < use.returned])
                if what is not None:
                    found.append(Violation(use, what))
    return found


def disagreements(operations: Iterable[Operation]) -> int:
    """How often a key that had been refused was accepted by a later use, other than after it was enabled."""
    count = 0
    for of_key in _by_key(operations).values():
        uses = sorted((use for use in of_key if use.kind == "verify"), key=lambda use: use.returned)
        for earlier, later in pairwise(use for use in uses if use.outcome in {ACCEPTED, REFUSED}):
            turned = earlier.outcome is REFUSED and later.outcome is ACCEPTED and earlier.returned < later.invoked
            count += turned and not any(
                write.kind in BEGINS and write.invoked < later.returned and write.returned > earlier.invoked
                for write in of_key
            )
    return count


def _by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.key, []).append(operation)
    return found


def _fault(use: Operation, writes: list[Operation]) -> str | None:
    """Why no order of these writes (all that were asked for before its answer) explains a use; None when one does."""
    if use.outcome is ACCEPTED:
        if any(write.kind == "revoke" and write.returned < use.invoked for write in writes):
            return "accepted after its revocation was answered"
        if not _can_be_last(use, writes, BEGINS):
            return "accepted while it was disabled"
    if use.outcome is REFUSED:
        revoked = any(write.kind == "revoke" for write in writes)
        if not revoked and not _can_be_last(use, writes, ENDS):
            return "refused while it was in force"
    if use.outcome is UNEXPECTED:
        return "neither accepted nor refused"
    return None


def _can_be_last(use: Operation, writes: list[Operation], kinds: frozenset[str]) -> bool:
    """Whether a write of these kinds may be the last before the use: none of another kind lies wholly between."""
    return any(
        not any(
            other.kind not in kinds and write.returned < other.invoked and other.returned < use.invoked
            for other in writes
        )
        for write in writes
        if write.kind in kinds
    )
