"""A line to PostgreSQL that can fall silent: a TCP port before its unix socket that swallows all and closes nothing."""

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event as Flag
from threading import Thread
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536


class Line:
    """Forwards between a TCP port of its own and the server of ``conninfo``, from entering to leaving.

    While it is silent, what is sent stays in it, in both directions, and nobody is told; it goes on with what it held.
    """

    def __init__(self, conninfo: str) -> None:
        self._given = conninfo_to_dict(conninfo)
        self._target = f"{self._given['host']}/.s.PGSQL.{self._given['port']}"
        self._listener = socket.create_server((HOST, 0))
        self._open = Flag()
        self._open.set()
        self._left = False
        self._ends: set[socket.socket] = set()
        self._threads: list[Thread] = []

    @property
    def conninfo(self) -> str:
        """The conninfo of the same database by way of this line."""
        # The server's end is its unix socket, where neither is offered.
        return make_conninfo(
            **(self._given | {"host": HOST, "port": self._listener.getsockname()[1]}),
            sslmode="disable",
            gssencmode="disable",
        )

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._open.set()
        self._hang_up(self._listener)
        for thread in self._threads:  # the first is the one that adds to them
            thread.join()
        self._listener.close()

    @property
    def is_silent(self) -> bool:
        """Whether nothing gets through."""
        return not self._open.is_set()

    def fall_silent(self) -> None:
        """From now on nothing gets through, and nothing is closed."""
        self._open.clear()

    def speak_again(self) -> None:
        """What was held goes on."""
        self._open.set()

    def _begin(self, run: Callable[..., None], *args: object) -> None:
        thread = Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._left:
            with suppress(OSError):
                near, _ = self._listener.accept()
                self._ends.add(near)
                self._begin(self._carry, near)
        for end in tuple(self._ends):
            self._hang_up(end)

    def _carry(self, near: socket.socket) -> None:
        # What is in the way of a connection ends it, as the server's own end does.
        with near, socket.socket(socket.AF_UNIX) as far, suppress(OSError):
            far.connect(self._target)
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(CHUNK_BYTES)
                    self._open.wait()
                    if not data:
                        return
                    (far if source is near else near).sendall(data)

    def _hang_up(self, end: socket.socket) -> None:
        with suppress(OSError):  # it has ended by itself
            end.shutdown(socket.SHUT_RDWR)
