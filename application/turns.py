"""Many things in turn, where what breaks one of them must not keep the others from theirs."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

from domain.errors import UnavailableError

Fence = Callable[[str], AbstractContextManager[None]]


@contextmanager
def each_its_turn() -> Generator[Fence]:
    """Gives what to put around each of them, named: what breaks one is raised once all had their turn, the first first.

    UnavailableError is raised at once, for it holds for all of them.
    """
    broken: list[Exception] = []

    @contextmanager
    def fenced(whose: str) -> Generator[None]:
        try:
            yield
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - raised below: one's fault must not hold up the others
            error.add_note(f"of {whose}")
            broken.append(error)

    yield fenced
    if broken:
        raise broken[0]
