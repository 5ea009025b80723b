"""A small HTTP client: one keep-alive connection, for one thread at a time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, Self

TIMEOUT_SECONDS = 30.0


class NoAnswerError(Exception):
    """The request may have been carried out or not: its answer did not arrive whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read whole; header names in lower case, the last of two lines of one name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class Client:
    """Sends ``key`` as the bearer of each request; ``received`` keeps every answer, in order.

    Nothing is sent twice: when the connection breaks that is a NoAnswerError, and the next request opens another one.
    """

    def __init__(self, host: str, port: int, *, key: str | None = None) -> None:
        self.key = key
        self.received: list[Answer] = []
        self._connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next request opens another one."""
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; a ``body`` other than None goes as JSON, ``key`` stands in for the client's own."""
        bearer = key or self.key
        sent = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        content = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            content = json.dumps(body)
        try:
            self._connection.request(method, path, body=content, headers=sent | dict(headers or {}))
            response = self._connection.getresponse()
            read = response.read()
        except (OSError, HTTPException) as error:
            self.close()
            raise NoAnswerError(f"{method} {path}: {error!r}") from error
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, read)
        self.received.append(answer)
        return answer

    def get(self, path: str, *, key: str | None = None) -> Answer:
        """GET."""
        return self.request("GET", path, key=key)

    def post(self, path: str, body: object = None, *, key: str | None = None) -> Answer:
        """POST."""
        return self.request("POST", path, body, key=key)

    def done(self, method: str, path: str, body: object = None, *, key: str | None = None) -> Any:
        """The JSON of a request that must succeed."""
        answer = self.request(method, path, body, key=key)
        assert answer.status in {200, 201}, f"{method} {path}: {answer.status} {answer.body!r}"
        return answer.json()

    def pages(self, path: str) -> list[Any]:
        """All entries of a list, page by page."""
        entries: list[Any] = []
        mark = "&" if "?" in path else "?"
        cursor = ""
        while True:
            page = self.done("GET", f"{path}{mark}limit=100{cursor}")
            entries += page["data"]
            if page["next_cursor"] is None:
                return entries
            cursor = f"&cursor={page['next_cursor']}"
