"""Where a follower is in each log, so that it can go on after its stream was cut: no byte twice, none missing.

Pure: no network, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.client.errors import CutError, OutOfRangeError
from jobworker.v1.job_pb2 import LOG_STREAM_STDERR, LOG_STREAM_STDOUT, LOG_STREAM_UNSPECIFIED, LogStream
from jobworker.v1.query_pb2 import LogChunk, LogCursor, StreamLogsRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

Key = tuple[int, LogStream.ValueType]  # a log: its job's index, and which of the job's outputs

_SEPARATE = frozenset({LOG_STREAM_STDOUT, LOG_STREAM_STDERR})


class Position:
    """What was seen of the logs that a request asks for."""

    def __init__(self, request: StreamLogsRequest) -> None:
        self._first = request
        self._tail = bool(request.tail_bytes or request.tail_lines)
        self._offsets: dict[Key, int] = {(c.job_index, c.stream): c.offset for c in request.cursors}
        self._ended: dict[int, set[LogStream.ValueType]] = {}  # jobs of which some log had its end
        self._complete: set[int] = set()  # jobs of which every log had
        self._begun = False

    def take(self, chunk: LogChunk) -> LogChunk | None:
        """What of a chunk is new; None: nothing.

        Raises:
            CutError: bytes before it are missing.
        """
        self._begun = True
        key = (chunk.job_index, chunk.stream)
        if chunk.stream != LOG_STREAM_STDERR and (chunk.job_index, LOG_STREAM_UNSPECIFIED) in self._offsets:
            # A cursor that left the stream open: it is this one.
            self._offsets.setdefault(key, self._offsets.pop((chunk.job_index, LOG_STREAM_UNSPECIFIED)))
        if chunk.job_index in self._complete or chunk.stream in self._ended.get(chunk.job_index, ()):
            return None
        kind = chunk.WhichOneof("payload")
        if kind == "end":
            self._reach(key, chunk.end.total_bytes)
            self._offsets[key] = chunk.end.total_bytes
            self._end(key)
            return chunk
        length = chunk.gap.length if kind == "gap" else len(chunk.data)
        start = self._reach(key, chunk.offset)
        if chunk.offset + length <= start:
            return None
        self._offsets[key] = chunk.offset + length
        return chunk if chunk.offset == start else _without(chunk, start - chunk.offset)

    def shorten(self, error: OutOfRangeError) -> str | None:
        """The service has less of a log than was seen of it: goes on from the log's end. In words, what is not there
        any more; None: nothing was seen there, it was asked for so."""
        try:
            job, size = int(error.metadata["job_index"]), int(error.metadata["size"])
            stream = LogStream.Value(f"LOG_STREAM_{error.metadata['stream']}")
        except (KeyError, ValueError):
            return None
        seen = self._offsets.get((job, stream), 0)
        if not self._begun or size >= seen:
            return None
        self._offsets[job, stream] = size
        return f"bytes {size} to {seen - 1} of job {job}, which came before, are not in its log any more"

    def complete(self, job_count: int) -> bool:
        """Whether each log that was asked for had its end; `job_count` is the batch's."""
        return all(job in self._complete for job in self._jobs(job_count))

    def request(self, job_count: int) -> StreamLogsRequest:
        """The request that goes on from here; `job_count` is the batch's."""
        if not self._begun:  # what was asked for, tails included
            return self._first
        request = StreamLogsRequest(correlation_id=self._first.correlation_id, no_follow=self._first.no_follow)
        if self._complete or self._first.job_index:
            request.job_index.extend(job for job in self._jobs(job_count) if job not in self._complete)
        for (job, stream), offset in self._offsets.items():
            request.cursors.append(LogCursor(job_index=job, stream=stream, offset=offset))
        return request

    def _jobs(self, job_count: int) -> Iterable[int]:
        return self._first.job_index or range(job_count)

    def _reach(self, key: Key, offset: int) -> int:
        """Where the log `key` is to go on, given that its next piece begins at `offset`."""
        # A log that was asked for by its tail begins wherever its first piece does.
        start = self._offsets.get(key, offset if self._tail else self._first.offset)
        if offset > start:
            raise CutError(f"job {key[0]}: the log goes on at byte {offset} where byte {start} was to come")
        return start

    def _end(self, key: Key) -> None:
        job, stream = key
        ended = self._ended.setdefault(job, set())
        ended.add(stream)
        if stream not in _SEPARATE or ended >= _SEPARATE:
            self._complete.add(job)
            for seen in self._ended.pop(job):
                del self._offsets[job, seen]


def _without(chunk: LogChunk, seen: int) -> LogChunk:
    """The chunk without its first `seen` bytes."""
    rest = LogChunk()
    rest.CopyFrom(chunk)
    rest.offset += seen
    if chunk.WhichOneof("payload") == "gap":
        rest.gap.length -= seen
    else:
        rest.data = chunk.data[seen:]
    return rest
