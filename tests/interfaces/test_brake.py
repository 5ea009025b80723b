"""The brake on floods: what is held is bounded, and whoever comes when it is full goes at once."""

import asyncio

from interfaces.http.gate import Brake


def test_no_more_than_so_many_answers_are_held() -> None:
    """The next one goes at once; one that is given up leaves its place."""

    async def flood() -> list[bool]:
        brake = Brake(seconds=3600, held_max=2)
        held = [asyncio.ensure_future(brake.hold()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.wait_for(brake.hold(), 5)
        still = [not each.done() for each in held]
        held.pop().cancel()
        await asyncio.sleep(0)
        late = asyncio.ensure_future(brake.hold())
        await asyncio.sleep(0)
        still.append(not late.done())
        for each in (*held, late):
            each.cancel()
        return still

    assert asyncio.run(flood()) == [True, True, True]


def test_a_held_answer_goes_by_itself() -> None:
    """It is late, not lost."""
    asyncio.run(asyncio.wait_for(Brake(seconds=0.001).hold(), 5))
