"""A gRPC client that costs next to nothing, for load: HTTP/2 by hand over one connection, in one thread.

A stock gRPC client in Python takes about as much of a processor for a call as the service does for a health check, and
would be half of what is measured. This one tells what it took itself: `cpu_seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from tests.harness.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    connected,
    data_frame,
    frame,
    string,
    usual,
)
from tests.harness.service import Service

_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4  # RFC 9113 section 6.5.2
_WINDOW = (1 << 31) - 1
_FIRST_WINDOW = 65535
_FIRST_DYNAMIC = 62  # RFC 7541 section 2.3.3
_RECEIVE_BYTES = 1 << 18
_OK = b"grpc-status\x010"


class CallFailedError(Exception):
    """A call ended with another status than OK; its trailers, as they came."""


class Caller:
    """One connection of a user's. Requests and answers are serialised messages. Not for two threads."""

    def __init__(self, service: Service, token: str, user: str = "alice") -> None:
        self.cpu_seconds = 0.0  # of `many` and `follow`
        self._token = token.encode()
        self._next = 1
        self._open = 0
        self._table: list[tuple[bytes, bytes]] = []
        self._blocks: dict[str, bytes] = {}
        self._rest = b""  # a frame that has not come whole
        self._parts: dict[int, bytes] = {}  # messages that have not
        self._taken = 0  # bytes of DATA since the connection's window was opened
        self._room = _FIRST_WINDOW
        self._socket = connected(service, user)
        # No dynamic table for answers: a status then comes in plain words.
        settings = _setting(_HEADER_TABLE_SIZE, 0) + _setting(_INITIAL_WINDOW_SIZE, _WINDOW)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + _opened(_WINDOW - _FIRST_WINDOW))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def one(self, method: str, request: bytes) -> bytes:
        """A unary call."""
        self._begin(method, [request])
        (answer,) = [message for _, message in self._messages()]
        return answer

    def many(self, method: str, requests: Iterable[bytes], *, in_flight: int) -> Iterator[bytes]:
        """Unary calls, so many at a time; their answers as they come."""
        began = time.thread_time()
        left = iter(requests)
        while True:
            self._begin(method, islice(left, in_flight - self._open))
            if not self._open:
                break
            for _, message in self._read():
                yield message
        self.cpu_seconds += time.thread_time() - began

    def follow(self, method: str, requests: Iterable[bytes], took: Callable[[int, bytes], object]) -> None:
        """Streams, all at once, until each has ended. `took` is called with which stream's it is, and each message."""
        began = time.thread_time()
        first = self._next
        self._begin(method, requests)
        for stream, message in self._messages():
            took((stream - first) // 2, message)
        self.cpu_seconds += time.thread_time() - began

    def _begin(self, method: str, requests: Iterable[bytes]) -> None:
        frames = []
        for request in requests:
            frames += [frame(HEADERS, END_HEADERS, self._next, self._block(method)), data_frame(self._next, request)]
            self._next += 2
            self._open += 1
            self._room -= len(request) + 5
        assert self._room >= 0, "more is in flight than the server's window allows"
        if frames:
            self._socket.sendall(b"".join(frames))

    def _block(self, method: str) -> bytes:
        """The headers of a call (RFC 7541 section 6): those that went before, by their places in the table."""
        if method in self._blocks:
            return self._blocks[method]
        headers = [*usual(method), (b"authorization", b"Bearer " + self._token)]
        if fresh := [header for header in headers if header not in self._table]:
            known = [header for header in headers if header not in fresh]
            block = self._indexed(known) + b"".join(b"\x40" + string(name) + string(value) for name, value in fresh)
            self._table += fresh
            self._blocks.clear()
            return block
        self._blocks[method] = self._indexed(headers)
        return self._blocks[method]

    def _indexed(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        last = len(self._table) - 1
        return bytes(0x80 | _FIRST_DYNAMIC + last - self._table.index(header) for header in headers)

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """Until no call is open."""
        while self._open:
            yield from self._read()

    def _read(self) -> list[tuple[int, bytes]]:
        """Whole messages, by the streams that they came on: waits for some bytes."""
        piece = self._socket.recv(_RECEIVE_BYTES)
        if not piece:
            raise CallFailedError("the server closed the connection")
        data = self._rest + piece
        at, found = 0, []
        while len(data) - at >= 9 and (end := at + 9 + int.from_bytes(data[at : at + 3])) <= len(data):
            kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9])
            if kind == DATA:
                self._taken += end - at - 9
                found += self._whole(stream, data[at + 9 : end])
            elif kind == HEADERS and flags & END_STREAM:
                if _OK not in data[at + 9 : end]:
                    raise CallFailedError(data[at + 9 : end])
                self._open -= 1
            elif kind == WINDOW_UPDATE and not stream:
                self._room += int.from_bytes(data[at + 9 : end])
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._socket.sendall(frame(kind, ACK, 0, data[at + 9 : end] if kind == PING else b""))
            elif kind in (GOAWAY, RST_STREAM):
                raise CallFailedError(f"frame {kind}: {data[at + 9 : end]!r}")
            at = end
        self._rest = data[at:]
        if self._taken > _WINDOW // 2:
            self._socket.sendall(_opened(self._taken))
            self._taken = 0
        return found

    def _whole(self, stream: int, data: bytes) -> list[tuple[int, bytes]]:
        """What of it is whole; the rest waits for more. Five bytes stand before each message: a flag, its length."""
        data = self._parts.pop(stream, b"") + data
        at, found = 0, []
        while len(data) - at >= 5 and (end := at + 5 + int.from_bytes(data[at + 1 : at + 5])) <= len(data):
            found.append((stream, data[at + 5 : end]))
            at = end
        if at < len(data):
            self._parts[stream] = data[at:]
        return found


def _setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def _opened(size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4))
