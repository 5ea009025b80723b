"""Requests that are answered before the event loop hears of them.

granian builds each request in a thread of its own, hands it to the event loop as a task of asyncio, and is given the
answer there. For an answer that waits for nothing, that way is longer than the whole check of a key. granian has no
door for such an answer, so the function that hands a request over is wrapped. granian promises nothing of it: where it
is gone, all requests go the usual way, and ``tests/interfaces/test_ahead.py`` tells whether the pinned version has it.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from granian import _futures  # pyright: ignore[reportPrivateUsage] - as the module says
from litestar.types import Scope

HAND_OVER = "_cbsched_aioschedule"

log = structlog.get_logger()


class Quick(Protocol):
    """What answers some requests at once; it is asked in one thread, which is not the event loop's."""

    def wake(self, loop: AbstractEventLoop) -> None:
        """Told once, before the first request, of the loop that the others go to."""
        ...

    def answer(self, scope: Scope, send: Callable[[Any], object]) -> bool:
        """Whether it has answered, or will; False leaves the request to the application. Must not block."""
        ...


def answer_ahead(quick: Quick) -> None:
    """Has this process's server ask ``quick`` first, from the next server on; says so when it cannot be made to."""
    hand_over = getattr(_futures, HAND_OVER, None)
    if hand_over is None:
        log.warning("no_answers_ahead")
        return

    def with_quick(loop: AbstractEventLoop, *rest: Any) -> Callable[[Any], None]:
        hand_to_loop: Callable[[Any], None] = hand_over(loop, *rest)
        quick.wake(loop)

        def hand_on(request: Any) -> None:
            try:
                if quick.answer(request.scope, request.proto.send):
                    return
            except Exception:  # the caller is not Python, and could not be told
                log.exception("unhandled_error")
            hand_to_loop(request)

        return hand_on

    setattr(_futures, HAND_OVER, with_quick)
