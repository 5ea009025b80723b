"""kill -9 of a worker, of the leader and of PostgreSQL under load: which answers have their access rows afterwards.

KEYLEDGER_TEST_SEED repeats a run's choices; when exactly a kill strikes is the machine's own choice.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.journeys.loaded import Round, scene
from tests.kit.load import Load
from tests.kit.service import eventually

pytestmark = pytest.mark.journey

KINDS = ("worker", "leader", "PostgreSQL")
LOSS_SECONDS = 0.2
"""What `buffered` may lose: the answers of a killed worker's last moments."""
LOST_ROWS_MAX = 5_000
"""However slow the machine: so many rows wait before answers do, and a batch is under way."""


def kinds(*, full: bool) -> list[str]:
    """What is killed, in turn: 30 times each, or in the short round twice."""
    return [*KINDS] * (30 if full else 2)


def test_every_answer_has_its_row(place: Path, full: bool) -> None:
    """`commit`: answers received ≤ rows ≤ answers + requests in flight, and the books balance, after every kill."""
    with scene(place, "commit") as running:
        load = running.load
        for kind in kinds(full=full):
            running.kill(kind)
            # What was answered before it is looked for is there.
            answered = {answer.request_id for answer in load.answers if answer.status == 200}
            assert answered <= running.rows()
            running.assert_balance()
        load.stop()
        rows = running.rows()
        answered = {answer.request_id for answer in load.answers if answer.status == 200}
        refused = {answer.request_id for answer in load.answers if answer.status == 503}
        assert answered <= rows
        # A row whose commit's own answer got lost may be that of a 503; any other without an answer was in flight.
        in_flight = rows - answered - refused
        assert len(in_flight) <= len(load.unanswered)
        eventually(running.is_settled, "all rows are settled, also those of killed workers")
    print(  # noqa: T201 - the figures
        f"commit: {running.told()}, {len(in_flight)} of these with rows; 503: {len(refused)}, {len(refused & rows)} "
        f"with rows; all {len(rows)} rows of the key settled, each once"
    )


def test_a_buffered_log_loses_no_more_than_a_flush(place: Path, full: bool) -> None:
    """`buffered`: what a kill loses are the last answers of the killed worker, of one flush; nothing else is lost."""
    with scene(place, "buffered") as running:
        load = running.load
        for kind in kinds(full=full):
            running.kill(kind)
            running.assert_balance()
        load.stop()
        last = {answer.line: answer.request_id for answer in load.answers if answer.status == 200}
        whole = set(last.values()) - {last.get(line) for line, _ in load.unanswered}
        # Rows are written in their order: when the last of each connection is there, so are those before.
        eventually(lambda: whole <= running.rows(), "what is buffered is written")
        lost = losses(load, running.rows(), running.rounds)
        eventually(running.is_settled, "all rows are settled")
    assert all(each.lost <= LOST_ROWS_MAX for each in lost), lost
    # How long a flush takes is the machine's: many kills tell, and two on a busy one do not.
    assert not full or all(each.lost <= each.bound for each in lost), lost
    print(f"buffered: {running.told()}")  # noqa: T201 - the figures
    for kind in KINDS:
        of_kind = [each for each, kill in zip(lost, running.rounds, strict=True) if kill.kind == kind]
        seconds = [each.seconds for each in of_kind]
        print(  # noqa: T201 - as above
            f"{kind}: {sum(each.lost for each in of_kind)} answers without rows, at a kill at most "
            f"{max(each.lost for each in of_kind)} of {max(each.bound for each in of_kind)} that it might be; "
            f"of the last seconds: median {statistics.median(seconds):.3f}, max {max(seconds):.3f}"
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """What a kill has cost: ``lost`` answers without rows, ``bound`` that were given within LOSS_SECONDS of the end."""

    lost: int
    bound: int
    seconds: float


def losses(load: Load, rows: set[str], rounds: list[Round]) -> list[Loss]:
    """By kill; AssertionError for an answer that was lost without one, or before one that was not."""
    accepted = [answer for answer in load.answers if answer.status == 200]
    kept_until = {answer.line: answer.at for answer in accepted if answer.request_id in rows}
    lost = [answer for answer in accepted if answer.request_id not in rows]
    assert all(answer.at > kept_until.get(answer.line, 0.0) for answer in lost), "lost before one that is kept"
    found: list[Loss] = []
    for each, following in zip(rounds, [*rounds[1:], None], strict=True):
        until = following.at if following else float("inf")
        broke = {line for line, at in load.unanswered if each.at <= at < until}
        ended = max((answer.at for answer in accepted if answer.line in broke), default=each.at)
        own = [answer for answer in lost if answer.line in broke]
        window = [answer for answer in accepted if answer.line in broke and answer.at >= ended - LOSS_SECONDS]
        found.append(Loss(len(own), len(window), ended - min((answer.at for answer in own), default=ended)))
    assert sum(each.lost for each in found) == len(lost), "lost without a kill of its worker"
    return found
