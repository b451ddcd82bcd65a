"""What a follower asks for, checked against the batch: which logs, and from where.

Knows field paths, so that a refusal names what is wrong; does not know gRPC.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

from jobworker.server.errors import OutOfRangeError, invalid
from jobworker.server.model import LogStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jobworker.server.model import BatchView
    from jobworker.server.slices import Slices

_INDEXES_AT_ONCE = 5000  # half a millisecond


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where one log is to go on: `stream` None is the job's first."""

    index: int
    stream: LogStream | None
    offset: int


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which logs and what of them. `indexes` ascending, none twice, all below job_count; `starts` by `log_key`.

    Logs without a start begin at 0, or at the last `tail_bytes` or `tail_lines` (0: all) of what they had when
    following began; of both, the fewer bytes. `only` leaves out a job's other streams.
    """

    indexes: Sequence[int]
    starts: Mapping[int, int] = field(default_factory=dict)
    follow: bool = True
    tail_bytes: int = 0
    tail_lines: int = 0
    only: LogStream | None = None


async def marked(batch: BatchView, indexes: Sequence[int], slices: Slices) -> bytearray:
    """A byte for each job of the batch, which is 1 where a request's `job_index` names it.

    Raises:
        InvalidRequestError: one is not in the batch.
    """
    marks = bytearray(batch.job_count)
    async for begin in slices.each(range(0, len(indexes), _INDEXES_AT_ONCE)):
        for position, index in enumerate(indexes[begin : begin + _INDEXES_AT_ONCE], begin):
            if index >= batch.job_count:
                raise invalid(f"job_index[{position}]", f"is {index}; the batch has {batch.job_count} jobs")
            marks[index] = 1
    return marks


async def selected(batch: BatchView, indexes: Sequence[int], slices: Slices) -> Sequence[int]:
    """The jobs named by a request's `job_index`: none is all, in order, each once.

    Raises:
        InvalidRequestError: one is not in the batch.
    """
    if not indexes:
        return range(batch.job_count)
    marks = await marked(batch, indexes, slices)
    found = array("L")
    async for begin in slices.each(range(0, len(marks), _INDEXES_AT_ONCE)):
        some = marks[begin : begin + _INDEXES_AT_ONCE]
        found.extend(compress(range(begin, begin + len(some)), some))
    return found


def log_key(index: int, stream: LogStream) -> int:
    """A log of a batch as one number: hundreds of thousands of tuples would keep the garbage collector long at work."""
    return index << 2 | stream


async def starts(
    batch: BatchView, cursors: Iterable[Cursor], slices: Slices, *, field: str | None = None
) -> dict[int, int]:
    """Where logs are to begin by a request's `cursors`; by `log_key`. `field`: what an offset is called that is not in
    `cursors`.

    Raises:
        InvalidRequestError: a cursor names a job or a stream that is not there.
        OutOfRangeError: or a place beyond what its log has.
    """
    found: dict[int, int] = {}
    async for position, cursor in slices.each(enumerate(cursors)):  # of each a job's lines are read
        path = f"cursors[{position}]"
        if cursor.index >= batch.job_count:
            raise invalid(f"{path}.job_index", f"is {cursor.index}; the batch has {batch.job_count} jobs")
        streams = batch.job(cursor.index).spec.output.streams
        stream = cursor.stream or streams[0]
        if stream not in streams:
            raise invalid(f"{path}.stream", f"the job has {' and '.join(s.name for s in streams)}, not {stream.name}")
        key = log_key(cursor.index, stream)
        if key in found:
            raise invalid(path, "names a log that an earlier cursor names")
        size = size_now(batch, cursor.index, stream)
        if cursor.offset > size:
            raise OutOfRangeError(
                field or f"{path}.offset", index=cursor.index, stream=stream.name, offset=cursor.offset, size=size
            )
        found[key] = cursor.offset
    return found


def size_now(batch: BatchView, index: int, stream: LogStream) -> int:
    """How many bytes a log has: of a final job as recorded, of another as the file is."""
    job = batch.job(index)
    if job.end is not None:
        sizes = dict(zip(job.spec.output.streams, job.end.log_bytes, strict=False))
        return sizes.get(stream, 0)
    path = batch.log_path(index, stream)
    while True:
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            path, before = batch.log_path(index, stream), path
            if path == before:
                return 0
