"""What every case is given: where, how long, and where it says what does not hold."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from load import Plan
from seed import Place, seeded


@dataclass
class Bench:
    """One run. ``plan``: rounds for comparisons; ``quick``: everything short, figures only for a look.

    ``rows``: how many the access log of (shape) has.
    """

    data: Path
    peers: Path
    conninfo: str
    postmaster: int
    quick: bool
    rows: int
    problems: list[str] = field(default_factory=list[str])
    _places: dict[int, Place] = field(default_factory=dict[int, Place])

    @property
    def plan(self) -> Plan:
        """The usual rounds."""
        return Plan(2 if self.quick else 6, 1 if self.quick else 4, self.postmaster)

    def place(self, count: int) -> Place:
        """A database with so many keys, made when it is first asked for."""
        if count not in self._places:
            say(f"making {count:,} keys")
            self._places[count] = seeded(self.conninfo, count, self.data / "keys")
        return self._places[count]

    def check(self, what: str, holds: object) -> None:
        """Notes as a problem what does not hold."""
        if not holds:
            self.problems.append(what)

    def sizes(self) -> Iterable[int]:
        """The numbers of keys that are compared."""
        return (1_000, 100_000) if self.quick else (1_000, 100_000, 1_000_000)


def say(line: str) -> None:
    """Talk, for whoever waits."""
    print(f"bench: {line}", flush=True)
