"""What a follower is sent: data, gaps and ends of logs. The form of a piece is the follower's choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from jobworker.server.model import JobEnd, LogStream

T_co = TypeVar("T_co", covariant=True)


class Encoder(Protocol[T_co]):
    """Makes what a follower sends out of what was read. Offsets are bytes from the log's start."""

    def data(self, index: int, stream: LogStream, offset: int, view: memoryview) -> T_co:
        """Bytes as they are in the log. `view` holds good only during the call: its memory is read into again."""
        ...

    def gap(self, index: int, stream: LogStream, offset: int, length: int, reason: str) -> T_co:
        """Bytes [offset, offset + length) are gone."""
        ...

    def end(self, index: int, stream: LogStream, total_bytes: int, end: JobEnd) -> T_co:
        """The log is complete, and its job final."""
        ...
