"""How long refusals take, by their reason, and whether their bytes are the same."""

import random
import statistics
import string
from collections.abc import Callable, Sequence
from typing import Any

from bench import Bench, say
from cases_revoke import KEYS as PLACE_KEYS
from load import percentile
from servers import serving
from wire import Wire

from domain.credential import TAG_BYTES

KEYS = PLACE_KEYS - 1  # a database of their own here, too
REVOKED = 200
LETTERS = string.ascii_letters + string.digits
OUTSIDERS = ("forged", "wrong secret, no tag", "mistyped")
PATH = "/api/campaigns"


def timing(bench: Bench) -> dict[str, Any]:
    """Samples of each reason in an order that chance decides, one connection, one request at a time."""
    count, slow = (500, 5) if bench.quick else (20_000, 500)
    place = bench.place(KEYS)
    ring = place.ring
    numbers = iter(range(place.count, place.count + 10_000_000))
    good = [key for _, key in place.keys(REVOKED + 1, place.count - REVOKED - 1)]
    revoked = list(place.keys(0, REVOKED))
    admin = next(iter(place.keys(REVOKED, 1)))[1]

    def wrong_secret() -> str:
        key = _other_secret(random.choice(good))  # noqa: S311 - no secrets
        return key[:-TAG_BYTES] + ring.tag(key[:-TAG_BYTES].encode("ascii")).decode("ascii")

    # The first three are what anybody can send; the fourth takes a key that once was good, the others our root secret.
    makers: dict[str, Callable[[], str]] = {
        "forged": lambda: f"sk_live_{_letters(9)}_{_letters(43)}",
        "wrong secret, no tag": lambda: _other_secret(random.choice(good)),  # noqa: S311 - as above
        "mistyped": lambda: _mistyped(random.choice(good)),  # noqa: S311 - as above
        "revoked": lambda: random.choice(revoked)[1],  # noqa: S311 - as above
        "unknown, right tag": lambda: place.key(next(numbers), ring)[1],
        "wrong secret, right tag": wrong_secret,
    }
    samples: dict[str, list[float]] = {name: [] for name in makers}
    answers: dict[str, set[bytes]] = {name: set() for name in makers}
    with (
        serving("keyledger", place, data=bench.data, jobs=False, failed_attempts_per_minute=1_000_000) as server,
        Wire(server.port) as wire,
    ):
        for key_id, _ in revoked:
            wire.ask(wire.request(f"/api/keys/{key_id}/revoke", admin, "POST"))
        say(f"timing: {count} samples of each reason, {slow} of that which costs bcrypt")
        for turn in range(count):
            names = [name for name in makers if name != "wrong secret, right tag" or turn % (count // slow) == 0]
            random.shuffle(names)
            for name in names:
                reply = wire.ask(wire.request(PATH, makers[name]()))
                samples[name].append(reply.seconds)
                answers[name].add(reply.comparable)
        bcrypts = int(server.get("/counts")[1].partition(b":")[2].rstrip(b"}"))
        server.forget_log()
    different = set[bytes]().union(*answers.values())
    bench.check(f"refusals have {len(different)} different answers", len(different) == 1)
    bench.check("not refused", all(each.startswith(b"HTTP/1.1 401") for each in different))
    return {
        "reasons": {name: _described(samples[name], samples["forged"]) for name in makers},
        "answers": len(different),
        "answer": next(iter(different)).decode("latin-1"),
        "bcrypts": bcrypts,
    }


def _letters(count: int) -> str:
    return "".join(random.choices(LETTERS, k=count))  # noqa: S311 - as above


def _other_secret(key: str) -> str:
    return f"{key[:18]}{_letters(32)}{key[50:]}"


def _mistyped(key: str) -> str:
    place = random.randrange(18, 50)  # noqa: S311 - as above
    letter = random.choice(LETTERS.replace(key[place], ""))  # noqa: S311 - as above
    return key[:place] + letter + key[place + 1 :]


def _described(seconds: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """In µs. ``slower``: how often a sample is slower than one of the others; one half when nothing can be told."""
    return {
        "count": len(seconds),
        "q1": percentile(seconds, 0.25) * 1e6,
        "median": statistics.median(seconds) * 1e6,
        "q3": percentile(seconds, 0.75) * 1e6,
        "p99": percentile(seconds, 0.99) * 1e6,
        "slower": _slower(seconds, others),
    }


def _slower(seconds: Sequence[float], others: Sequence[float]) -> float:
    """The share of all pairs in which the first is the slower (Mann and Whitney's U over their number)."""
    ordered = sorted([(value, True) for value in seconds] + [(value, False) for value in others])
    below, won = 0, 0
    for _, ours in ordered:
        if ours:
            won += below
        else:
            below += 1
    return won / (len(seconds) * len(others))
