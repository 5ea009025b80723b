"""A client that sends what it is told, byte for byte, and checks of every answer what every answer has to be.

The id, the one error body, the challenges, and that a key stands in no answer but the one that creates it: tests of
single routes need not repeat it.
"""

import http.client
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any

HOST = "127.0.0.1"
ANSWER_SECONDS = 30
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    422: "VALIDATION_FAILED",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}
REQUEST_ID = re.compile(r"req_[0-9A-Za-z]{22}")
KEY = re.compile(rb"sk_(?:dev|staging|live)_[0-9A-Za-z]{9}_[0-9A-Za-z]")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_callers = count(1)

Lines = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer; headers in the order and number that they came in, names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has to be JSON."""
        return json.loads(self.body)

    @property
    def fields(self) -> list[str]:
        """The fields that a 422 complains of."""
        assert self.status == 422, self
        return [detail["field"] for detail in self.json["error"]["details"]]

    @property
    def request_id(self) -> str:
        """The id that the service gave the request."""
        return self.header("x-request-id") or ""

    def header(self, name: str) -> str | None:
        """The header's one value; None when it is absent."""
        values = [value for given, value in self.headers if given == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def told(self) -> tuple[int, dict[str, str], bytes]:
        """All that a caller can learn from it: what differs between any two answers is left out."""
        headers = {name: value for name, value in self.headers if name not in {"x-request-id", "date", "connection"}}
        return self.status, headers, self.body


class StrictClient:
    """One keep-alive connection, for one thread.

    Each request comes from an address of its own (``X-Forwarded-For``), unless its ``headers`` say from where.
    """

    def __init__(self, port: int, *, key: str | None = None) -> None:
        self._key = key
        self._connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Ends the connection; the next request opens another one."""
        self._connection.close()

    def call(  # noqa: PLR0913 - a request has so many parts
        self,
        method: str,
        path: str,
        value: Any = ...,
        *,
        key: str | None = None,
        body: bytes | None = None,
        headers: Lines = (),
    ) -> Heard:
        """One request: ``value`` goes as JSON, ``body`` as it is, ``key`` (or the client's own) as the bearer."""
        content = body if value is ... else json.dumps(value).encode()
        lines = list(headers)
        given = {name.lower() for name, _ in lines}
        bearer = key or self._key
        if bearer is not None and "authorization" not in given:
            lines.append(("Authorization", f"Bearer {bearer}"))
        if "x-forwarded-for" not in given:
            lines.append(("X-Forwarded-For", another_address()))
        if content is not None:
            lines.append(("Content-Length", str(len(content))))
            if "content-type" not in given:
                lines.append(("Content-Type", "application/json"))
        heard = self._exchange(method, path, content, lines)
        check_answer(heard, creates=method == "POST")
        return heard

    def get(self, path: str, **more: Any) -> Heard:
        """A GET."""
        return self.call("GET", path, **more)

    def post(self, path: str, value: Any = ..., **more: Any) -> Heard:
        """A POST, without a body unless there is a value."""
        return self.call("POST", path, value, **more)

    def patch(self, path: str, value: Any = ..., **more: Any) -> Heard:
        """A PATCH."""
        return self.call("PATCH", path, value, **more)

    def pages(self, path: str, *, limit: int) -> list[list[Any]]:
        """The pages of a list, from the first to the one that says it is the last."""
        found: list[list[Any]] = []
        cursor = ""
        while True:
            heard = self.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}")
            assert heard.status == 200, heard
            assert list(heard.json) == ["data", "next_cursor"]
            found.append(heard.json["data"])
            if heard.json["next_cursor"] is None:
                return found
            assert len(found) < 100, "the list has no end"
            cursor = f"&cursor={heard.json['next_cursor']}"

    def _exchange(self, method: str, path: str, content: bytes | None, lines: Lines) -> Heard:
        connection = self._connection
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in lines:
                connection.putheader(name, value)
            connection.endheaders(content)
            with connection.getresponse() as response:
                heard = _heard(response)
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if heard.status == 413:
            self.close()  # the server reads no further, and the rest of the body is still on its way
        return heard


def another_address() -> str:
    """A client's address that no other call has."""
    number = next(_callers)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def read_answers(raw: bytes) -> list[Heard]:
    """The answers, none of them to HEAD, that a connection carried."""
    stream = _Stream(raw)
    heard: list[Heard] = []
    while stream.tell() < len(raw):
        with http.client.HTTPResponse(stream) as response:  # type: ignore[arg-type]
            response.begin()
            heard.append(_heard(response))
    return heard


def check_answer(heard: Heard, *, creates: bool = False) -> None:
    """What holds for every answer of every layer. ``creates``: it may hold a new key."""
    assert REQUEST_ID.fullmatch(heard.request_id), heard
    challenge = heard.header("www-authenticate")
    assert (challenge is None) or heard.status in {401, 403}, heard
    assert (challenge is not None) or heard.status != 401, heard
    assert (heard.header("retry-after") is not None) == (heard.status in {429, 503}), heard
    if KEY.search(heard.body):
        assert creates, heard
        assert heard.status == 201, heard
        assert heard.header("cache-control") == "no-store", heard
    if heard.status >= 400 and heard.body:
        check_error(heard)


def check_error(heard: Heard) -> None:
    """The one error body: exactly its fields, in the compact form, with a length and a type."""
    assert heard.header("content-type") == "application/json", heard
    assert heard.header("content-length") == str(len(heard.body)), heard
    assert list(heard.json) == ["error"], heard
    error = heard.json["error"]
    assert list(error) == ["code", "message", *(["details"] if heard.status == 422 else [])], heard
    assert error["code"] == CODES[heard.status], heard
    assert error["message"], heard
    for detail in error.get("details", []):
        assert list(detail) == ["field", "message"], heard
    assert heard.body == json.dumps(heard.json, separators=(",", ":"), ensure_ascii=False).encode(), heard


class _Stream(BytesIO):
    """What HTTPResponse reads from as if it were a socket, one answer after another."""

    def makefile(self, *_: object) -> "_Stream":
        return self

    def close(self) -> None:
        """Stays open: the next answer follows."""


def _heard(response: http.client.HTTPResponse) -> Heard:
    headers = tuple((name.lower(), value) for name, value in response.getheaders())
    return Heard(response.status, headers, response.read())
