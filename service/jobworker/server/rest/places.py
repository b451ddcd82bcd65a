"""Connections over which somebody may ask: so many in all, and of one certificate. Decides; knows no sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jobworker.server.errors import ExhaustedError, JobworkerError, UnavailableError

T = TypeVar("T")

_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Client(Generic[T]):
    """The connections of one certificate; of the idle ones, the one that has been so longest is the first."""

    idle: dict[T, None] = field(default_factory=dict)
    busy: set[T] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.idle) + len(self.busy)


class Places(Generic[T]):
    """Who has one. Where there is none left, a connection on which nothing is asked gives way."""

    def __init__(self, *, total: int, of_one: int) -> None:
        self._total = total
        self._of_one = of_one
        self._clients: dict[bytes, _Client[T]] = {}
        self._client_of: dict[T, bytes] = {}

    def enter(self, connection: T, client: bytes) -> tuple[T | None, JobworkerError | None]:
        """Takes a place, idle for now, for one of a client's, by its certificate; returns who has to go for it, or why
        there is none."""
        mine = self._clients.get(client)
        if mine is not None and len(mine) >= self._of_one:
            if not mine.idle:
                words = f"this certificate has {self._of_one} connections in use"
                return None, ExhaustedError(words, subject="certificate", retry_after_seconds=_RETRY_SECONDS)
            gone = self._first_idle(mine)
        elif len(self._client_of) >= self._total:
            most = max((each for each in self._clients.values() if each.idle), key=len, default=None)
            if most is None:
                return None, UnavailableError("there are too many connections", retry_after_seconds=_RETRY_SECONDS)
            gone = self._first_idle(most)
        else:
            gone = None
        self._client_of[connection] = client
        self._clients.setdefault(client, _Client()).idle[connection] = None
        return gone, None

    def busy(self, connection: T) -> None:
        """Something is asked on it."""
        if (client := self._client_of.get(connection)) is not None:
            mine = self._clients[client]
            mine.idle.pop(connection, None)
            mine.busy.add(connection)

    def idle(self, connection: T) -> None:
        """It was answered."""
        if (client := self._client_of.get(connection)) is not None:
            mine = self._clients[client]
            mine.busy.discard(connection)
            mine.idle.pop(connection, None)
            mine.idle[connection] = None

    def leave(self, connection: T) -> None:
        """It is over; again does nothing."""
        if (client := self._client_of.pop(connection, None)) is not None:
            mine = self._clients[client]
            mine.idle.pop(connection, None)
            mine.busy.discard(connection)
            if not mine:
                del self._clients[client]

    def _first_idle(self, client: _Client[T]) -> T:
        connection = next(iter(client.idle))
        self.leave(connection)
        return connection
