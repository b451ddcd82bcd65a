"""LogChunk messages, encoded by hand: the bytes of a log are copied once on their way, not three times.

A message made by protobuf copies them into its arena, out of it, and into the encoded message; at 256 KiB a message
that is a good part of what sending takes. The wire format is a promise
(https://protobuf.dev/programming-guides/encoding), and a test holds it against protobuf's own reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.rpc import convert
from jobworker.v1 import query_pb2
from jobworker.v1.job_pb2 import EndReason, JobState
from jobworker.v1.job_pb2 import LogStream as StreamMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.model import JobEnd, LogStream

# Tags: field number << 3 | wire type, of LogChunk and of google.protobuf.Timestamp.
_JOB_INDEX, _STREAM, _OFFSET, _DATA, _OBSERVED_AT = 0x08, 0x10, 0x18, 0x22, 0x3A
_SECONDS, _NANOS = 0x08, 0x10


class Chunks:
    """The encoder (logs/encoder.py) of StreamLogs: encoded LogChunk messages. `clock_ns` gives Unix nanoseconds."""

    def __init__(self, *, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns

    def data(self, index: int, stream: LogStream, offset: int, view: memoryview) -> bytes:
        """Bytes of a log."""
        head = bytearray()
        _put(head, _JOB_INDEX, index)
        _put(head, _STREAM, stream)
        _put(head, _OFFSET, offset)
        _put(head, _DATA, len(view))
        return b"".join((head, view, self._observed_at()))

    def gap(self, index: int, stream: LogStream, offset: int, length: int, reason: str) -> bytes:
        """Bytes that are gone."""
        gap = query_pb2.LogGap(length=length, reason=reason)
        return self._message(index, stream, offset, gap=gap)

    def end(self, index: int, stream: LogStream, total_bytes: int, end: JobEnd) -> bytes:
        """The log is complete."""
        message = query_pb2.LogEnd(
            total_bytes=total_bytes,
            state=JobState.ValueType(end.state),
            end_reason=EndReason.ValueType(end.reason),
            dropped_bytes=end.dropped(stream)[1],
        )
        if end.exit_code is not None:
            message.exit_code = end.exit_code
        elif end.signal is not None:
            message.signal = end.signal
        return self._message(index, stream, total_bytes, end=message)

    def _message(
        self,
        index: int,
        stream: LogStream,
        offset: int,
        *,
        gap: query_pb2.LogGap | None = None,
        end: query_pb2.LogEnd | None = None,
    ) -> bytes:
        return query_pb2.LogChunk(
            job_index=index,
            stream=StreamMessage.ValueType(stream),
            offset=offset,
            gap=gap,
            end=end,
            observed_at=convert.timestamp(self._clock_ns()),
        ).SerializeToString()

    def _observed_at(self) -> bytearray:
        seconds, nanos = divmod(self._clock_ns(), 1_000_000_000)
        body = bytearray()
        _put(body, _SECONDS, seconds)
        _put(body, _NANOS, nanos)
        tail = bytearray()
        _put(tail, _OBSERVED_AT, len(body))
        return tail + body


def _put(buffer: bytearray, tag: int, value: int) -> None:
    """A tag and a varint."""
    buffer.append(tag)
    while value > 0x7F:
        buffer.append(value & 0x7F | 0x80)
        value >>= 7
    buffer.append(value)
