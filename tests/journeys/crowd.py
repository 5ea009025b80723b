"""Many clients on one event loop: owners who create, stop and revoke keys, and users who use them all the while."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic_ns
from typing import Any

from tests.journeys.linearizability import ACCEPTED, REFUSED, History, Operation

HOST = "127.0.0.1"
ANSWER_SECONDS = 9.0
BRIEF_SECONDS = 0.5
"""What a server remembers it tells at once."""
REST_SECONDS = 0.012
KEPT_ENDED = 12
"""So many ended keys are used on."""
IN_FORCE_SHARE = 0.7
"""Of the uses that nobody told of."""
OWNER = "owner"
"""The owners' own key, in the history: it is always in force."""
FORWARD = "/auth/forward"
USES = ("/api/campaigns", FORWARD)
EXPIRES_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Door:
    """A server's port, and its name in the history."""

    name: str
    port: int


class Wire:
    """One keep-alive connection, opened when needed; whatever goes wrong closes it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def local_port(self) -> int | None:
        """This side's port; None while it is closed."""
        return None if self._streams is None else self._streams[1].get_extra_info("sockname")[1]

    async def open(self) -> None:
        """Opens it if it is closed."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self.door.port)

    def close(self) -> None:
        """The next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def request(self, operation: Operation, request: bytes, seconds: float = ANSWER_SECONDS) -> bytes:
        """Sends it and notes the answer in the operation; the body, empty when none came in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.open()
                assert self._streams is not None
                reader, writer = self._streams
                operation.invoked = monotonic_ns()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                body = await reader.readexactly(int(length.split(b":")[1]))
                operation.answer(int(head[9:12]), monotonic_ns())
                return body
        except (OSError, EOFError, TimeoutError):
            self.close()
            return b""
        except BaseException:
            self.close()
            raise


@dataclass(slots=True)
class Used:
    """A key that users know."""

    key_id: str
    secret: str


@dataclass(slots=True)
class Crowd:
    """All clients of a run, and what they share: the history, the keys in force, and the last of those that ended.

    ``quiet`` are the doors without a database: owners leave them alone, users use what was last accepted by its worker.
    """

    history: History
    owner_key: str
    owners_at: Sequence[Door]
    quiet: set[str] = field(default_factory=set[str])
    waits_ms: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """When each revocation was asked for, and how long its receipt says that it waited."""
    in_force: dict[str, Used] = field(default_factory=dict[str, Used])
    ended: dict[str, Used] = field(default_factory=dict[str, Used])
    going: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is cleared, owners do nothing more to their keys."""
    posts: list["asyncio.Queue[Used]"] = field(default_factory=list["asyncio.Queue[Used]"])
    chance: random.Random = field(default_factory=lambda: random.Random(7310310))  # noqa: S311 - a repeatable crowd
    numbers: "count[int]" = field(default_factory=count)

    @asynccontextmanager
    async def at_work(self, users: Sequence[Wire], owners: int) -> AsyncIterator[None]:
        """All are at work within; each ends what it is at before the end, or is cut off."""
        self.posts.clear()
        self.going = asyncio.Event()  # of this loop: one that was waited for in another ends whoever waits
        self.going.set()
        if OWNER not in self.in_force:
            self.history.ask("create", OWNER, "").answer(201, monotonic_ns())
            self.in_force[OWNER] = Used(OWNER, self.owner_key)
        # Two at a time have the same worker at the other end, and share what it accepted when they last used it.
        accepted: list[dict[str, Used]] = [{} for _ in users[::2]]
        tasks = [
            asyncio.create_task(self._use(wire, self._post(), accepted[number // 2], brief=number % 2 == 1))
            for number, wire in enumerate(users)
        ]
        tasks += [asyncio.create_task(self._own(number)) for number in range(owners)]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            if failures := [end for end in ends if isinstance(end, Exception)]:
                raise ExceptionGroup("some of the crowd did not get to the end", failures)

    def _post(self) -> "asyncio.Queue[Used]":
        post: asyncio.Queue[Used] = asyncio.Queue()
        self.posts.append(post)
        return post

    def _head(self, method: str, path: str, key: str) -> str:
        # Refusals are counted for each client network; each request comes from its own, so that they stay 401.
        number = next(self.numbers)
        client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\nAuthorization: Bearer {key}\r\n"
        )

    async def _use(self, wire: Wire, post: "asyncio.Queue[Used]", accepted: dict[str, Used], *, brief: bool) -> None:
        """Uses keys for ever; a brief user asks for nothing but what the server should remember, and gives up soon."""
        while True:
            known: Used | None = None
            # Not wait_for: before Python 3.12 it may swallow the cancellation that ends this.
            with suppress(TimeoutError):
                async with asyncio.timeout(REST_SECONDS):
                    known = await post.get()
            if known is None:
                group = list((self.in_force if self.chance.random() < IN_FORCE_SHARE else self.ended).values())
                known = self.chance.choice(group) if group else None
            path, patience = self.chance.choice(USES), ANSWER_SECONDS
            if brief or wire.door.name in self.quiet:
                # Without its database a server can only go by what it remembers, and all else keeps its caller waiting.
                path, patience = FORWARD, BRIEF_SECONDS
                if known is None or known.key_id not in accepted:
                    known = self.chance.choice(list(accepted.values())) if accepted else None
            if known is None:
                continue
            request = self._head("GET", path, known.secret) + "\r\n"
            operation = self.history.ask("verify", known.key_id, wire.door.name)
            await wire.request(operation, request.encode(), patience)
            if operation.outcome is ACCEPTED:
                accepted[known.key_id] = known
            elif operation.outcome is REFUSED or wire.door.name in self.quiet:
                # A server without its database that keeps its caller waiting does not remember the key.
                accepted.pop(known.key_id, None)

    async def _own(self, number: int) -> None:
        while True:
            key = await self._create(number)
            if key is None:
                continue
            self.in_force[key.key_id] = key
            await self._look(key)
            for _ in range(self.chance.randrange(3)):
                if not (await self._write("disable", key) and await self._write("enable", key)):
                    break  # whether it is in force is not known: it can only be ended
            while not await self._write("revoke", key):
                pass

    async def _create(self, number: int) -> Used | None:
        expires_at = (datetime.now(UTC) + EXPIRES_AFTER).isoformat()
        body = {"name": f"Owner {number}", "environment": "live", "expires_at": expires_at}
        operation, made = await self._ask("create", f"unborn_{number}", "/api/keys", body)
        if operation.outcome is not ACCEPTED:
            return None
        operation.key = made["id"]
        return Used(made["id"], made["key"])

    async def _write(self, kind: str, key: Used) -> bool:
        """Whether it was answered with success; then all users are told to look, at once."""
        body = {"reason": "compromised"} if kind == "revoke" else None
        operation, made = await self._ask(kind, key.key_id, f"/api/keys/{key.key_id}/{kind}", body)
        if operation.outcome is not ACCEPTED:
            return False
        if kind == "revoke":
            self.in_force.pop(key.key_id)
            self.ended[key.key_id] = key
            if len(self.ended) > KEPT_ENDED:
                del self.ended[next(iter(self.ended))]
            self.waits_ms.append((operation.invoked, made["receipt"]["waited_ms"]))
        await self._look(key)
        return True

    async def _look(self, key: Used) -> None:
        for post in self.posts:
            post.put_nowait(key)
        await asyncio.sleep(self.chance.uniform(2, 8) * REST_SECONDS)
        await self.going.wait()

    async def _ask(self, kind: str, key_id: str, path: str, body: object) -> tuple[Operation, Any]:
        """A write, on a connection of its own; its answer's body, None without success."""
        wire = Wire(self.chance.choice([door for door in self.owners_at if door.name not in self.quiet]))
        content = b"" if body is None else json.dumps(body).encode()
        head = self._head("POST", path, self.owner_key) + f"Content-Length: {len(content)}\r\nConnection: close\r\n"
        kind_of = "" if body is None else "Content-Type: application/json\r\n"
        operation = self.history.ask(kind, key_id, wire.door.name)
        try:
            answer = await wire.request(operation, f"{head}{kind_of}\r\n".encode() + content)
        finally:
            wire.close()
        if operation.outcome is ACCEPTED:
            return operation, json.loads(answer)
        await asyncio.sleep(REST_SECONDS)
        return operation, None
