"""Where a client of StreamLogs may go on: the places of all logs of a stream as one short text, which is the id of a
server-sent event and comes back as Last-Event-ID.

`0-99,120;100.1=5000,101.2=7e`: the jobs 0 to 99 and 120 are complete; of the others, job 100's log 1 (LogStream) goes
on at 5000, and log 2 of job 101 is complete with 7 bytes while its other one is not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jobworker.server.errors import invalid
from jobworker.v1 import job_pb2, query_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

LAST_EVENT_ID = "last-event-id"

# Servers and proxies take header lines of 8 KiB; an id that would be longer is left out, and the client keeps the last.
_MAX_ID = 4000
_FORM = re.compile(r"((?:\d{1,10}(?:-\d{1,10})?(?:,|(?=;)))*);((?:\d{1,10}\.[123]=\d{1,20}e?(?:,|$))*)", re.ASCII)
_SEPARATE = (job_pb2.LOG_STREAM_STDOUT, job_pb2.LOG_STREAM_STDERR)

Log = tuple[int, int]  # job index, LogStream


class ResumeToken:
    """How far a stream has come."""

    def __init__(self) -> None:
        self._complete = _Ranges()
        self._offsets: dict[Log, int] = {}
        self._ended: set[Log] = set()

    @classmethod
    def parse(cls, text: str) -> ResumeToken:
        """Reads an id.

        Raises:
            InvalidRequestError: it is none of this service's.
        """
        found = _FORM.fullmatch(text)
        if found is None or len(text) > _MAX_ID:
            raise invalid(LAST_EVENT_ID, "is not an id of this stream")
        place = cls()
        # Sorted and joined: an id that was made up may have overlapping ranges.
        least = 0
        for first, last in sorted(_range(one) for one in found[1].split(",") if one):
            if last >= max(first, least):
                place._complete.add(max(first, least), last)
                least = last + 1
        for one in filter(None, found[2].split(",")):
            log, _, offset = one.partition("=")
            index, _, stream = log.partition(".")
            key = (int(index), int(stream))
            place._offsets[key] = int(offset.removesuffix("e"))
            if offset.endswith("e"):
                place._ended.add(key)
        return place

    def apply(self, request: query_pb2.StreamLogsRequest, job_count: int) -> bool:
        """Makes a request go on from here; False: everything that it asks for was sent."""
        complete = self._complete.numbers(job_count)
        rest = [index for index in request.job_index or range(job_count) if index not in complete]
        if not rest:
            return False
        if complete:
            request.job_index[:] = rest
        cursors = [
            query_pb2.LogCursor(job_index=index, stream=job_pb2.LogStream.ValueType(stream), offset=offset)
            for (index, stream), offset in self._offsets.items()
        ]
        if request.offset:
            request.cursors.append(query_pb2.LogCursor(job_index=rest[0], offset=request.offset))
            request.offset = 0
        cursors += [cursor for cursor in request.cursors if not self._knows(cursor)]
        del request.cursors[:]
        request.cursors.extend(cursors)
        # A tail is of what there was at first: what came since is wanted whole.
        request.tail_bytes = request.tail_lines = 0
        return True

    def take(self, chunk: query_pb2.LogChunk) -> bool:
        """Notes a chunk; False: it was sent before."""
        log = (chunk.job_index, chunk.stream)
        if log in self._ended:
            return False
        payload = chunk.WhichOneof("payload")
        length = len(chunk.data) if payload == "data" else chunk.gap.length if payload == "gap" else 0
        self._offsets[log] = chunk.offset + length
        if payload == "end":
            self._end(chunk.job_index, chunk.stream)
        return True

    def event_id(self) -> str | None:
        """The place as a text, unless that is too long."""
        if 8 * len(self._offsets) > _MAX_ID:
            return None
        ended = self._ended
        logs = (f"{i}.{s}={offset}{'e' if (i, s) in ended else ''}" for (i, s), offset in self._offsets.items())
        text = f"{','.join(self._complete.texts())};{','.join(logs)}"
        return text if len(text) <= _MAX_ID else None

    def _end(self, index: int, stream: int) -> None:
        self._ended.add((index, stream))
        streams = _SEPARATE if stream in _SEPARATE else (stream,)
        logs = [(index, int(one)) for one in streams]
        if self._ended.issuperset(logs):
            for log in logs:
                self._ended.discard(log)
                self._offsets.pop(log, None)
            self._complete.add(index, index)

    def _knows(self, cursor: query_pb2.LogCursor) -> bool:
        """Unspecified is a job's only log, or its first."""
        streams = (cursor.stream,) if cursor.stream else (job_pb2.LOG_STREAM_MERGED, job_pb2.LOG_STREAM_STDOUT)
        return any((cursor.job_index, int(stream)) in self._offsets for stream in streams)


class _Ranges:
    """A set of numbers that mostly follow one another."""

    def __init__(self) -> None:
        self._ranges: dict[int, int] = {}  # first -> last
        self._lasts: dict[int, int] = {}  # last -> first

    def numbers(self, below: int) -> set[int]:
        """Those below a number."""
        return {number for first, last in self._ranges.items() for number in range(first, min(last + 1, below))}

    def add(self, first: int, last: int) -> None:
        """Adds a range that overlaps none; it is joined with its neighbours."""
        if first - 1 in self._lasts:
            first = self._lasts.pop(first - 1)
            del self._ranges[first]
        if last + 1 in self._ranges:
            last = self._ranges.pop(last + 1)
            del self._lasts[last]
        self._ranges[first] = last
        self._lasts[last] = first

    def texts(self) -> Iterator[str]:
        """`0-99`, `120`."""
        return (f"{first}-{last}" if first != last else str(first) for first, last in self._ranges.items())


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)
