"""Reading a request's body: JSON exactly, in place of Litestar's own way, and what nobody reads out of the way.

Litestar decodes without a type and then converts leniently: it takes `"86400"` for 86400, a number for a time and
`"null"` for null, and it answers 500 to invalid UTF-8 (UnicodeDecodeError) and to deep nesting (RecursionError).

An object that names a field twice is refused (RFC 7493 section 2.3): a proxy that filters bodies may read the other.
"""

import asyncio
import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import URL
from litestar.exceptions import InternalServerException
from litestar.types import Empty, HTTPScope, Receive, ReceiveMessage

from domain.errors import InvalidError, MalformedError
from interfaces.http.errors import problem_of
from interfaces.http.request import noted_of

BODY_SECONDS = 10.0  # as long as a head may take
REST_BYTES_MAX = 65_536
REST_SECONDS = 1.0


class JsonRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded straight and strictly into the type of the handler's `data`."""

    @property
    def url(self) -> URL:
        """The path alone: Litestar puts it in the words of what it refuses, which nobody is shown.

        Its own is made of the client's Host, and where that has no port that can be read, it raises ValueError.
        """
        return URL.from_components(path=self.scope["path"])

    async def json(self) -> Any:
        """The body as the type of `data`; MalformedError when unreadable, InvalidError naming the field otherwise."""
        declared = self.route_handler.parsed_data_field
        return decode(await self.body(), declared.annotation if declared else Any)

    async def body(self) -> bytes:
        """All of the body; MalformedError when the client went away before its end, or takes longer than 10 s.

        The key is judged again behind it: whoever holds the end of a body back may have been revoked meanwhile. Once:
        Litestar asks for the body, whether there is one, and then for its JSON.
        """
        if self._body is not Empty:
            return self._body
        if not announces_body(self.scope):
            # Waiting for what does not come would put the request behind all others that the event loop has.
            return b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await super().body()
        except TimeoutError as late:
            raise MalformedError("The request body did not end in time") from late
        except InternalServerException as gone:
            # Litestar's word for http.disconnect. The answer reaches nobody; it only has to be no failure of ours.
            raise MalformedError("The request body ended early") from gone
        record = noted_of(self.scope)
        if record is not None and record.judge_again is not None:
            await record.judge_again()
        return body


class Body:
    """A request's body as it comes in; ``receive`` stands in the server's place."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_ended = False

    async def receive(self) -> ReceiveMessage:
        """The next piece."""
        message = await self._receive()
        self._has_ended = message["type"] != "http.request" or not message.get("more_body")
        return message

    async def take_rest(self) -> None:
        """Takes what the application left of it, at most 64 KiB and for a second; to be called once it has answered.

        A server that closes on unread bytes resets the connection, and whoever still sends may lose the answer (RFC
        9112 section 9.6).
        """
        taken = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                while not self._has_ended and taken < REST_BYTES_MAX:
                    message = await self.receive()
                    if message["type"] == "http.request":
                        taken += len(message.get("body", b""))


def decode(raw: bytes, kind: Any) -> Any:
    """Decode JSON (RFC 8259) into that type; MalformedError when unreadable, InvalidError naming the field."""
    try:
        value = _decoder(kind).decode(raw)
        json.loads(raw, object_pairs_hook=_unambiguous, parse_int=str)  # str: int has a limit on digits
    except msgspec.ValidationError as error:
        raise InvalidError((problem_of(error),)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("The request body is not readable JSON") from error
    return value


def announces_body(scope: HTTPScope) -> bool:
    """What the head announces (RFC 9112 section 6.3); True where it cannot tell, as in HTTP/2."""
    return not scope["http_version"].startswith("1") or any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _unambiguous(fields: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in fields}) != len(fields):
        raise MalformedError("The request body names a field twice")
