"""What a follower asks for, checked against the batch: which logs, and from where.

Knows field paths, so that a refusal names what is wrong; does not know gRPC.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobworker.server.errors import invalid
from jobworker.server.model import LogStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jobworker.server.model import BatchView

_CHECKS_PER_TURN = 200  # each reads a job's lines; then the loop has its turn


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where one log is to go on: `stream` None is the job's first."""

    index: int
    stream: LogStream | None
    offset: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Which logs and what of them. `indexes` ascending, none twice, all below job_count; `starts` by job and stream.

    Logs without a start begin at 0, or at the last `tail_bytes` or `tail_lines` (0: all) of what they had when
    following began; of both, the fewer bytes. `only` leaves out a job's other streams.
    """

    indexes: Sequence[int]
    starts: Mapping[tuple[int, LogStream], int] = field(default_factory=dict)
    follow: bool = True
    tail_bytes: int = 0
    tail_lines: int = 0
    only: LogStream | None = None


def selected(batch: BatchView, indexes: Sequence[int]) -> Sequence[int]:
    """The jobs named by a request's `job_index`: none is all, in order, each once.

    Raises:
        InvalidRequestError: one is not in the batch.
    """
    if not indexes:
        return range(batch.job_count)
    for position, index in enumerate(indexes):
        if index >= batch.job_count:
            raise invalid(f"job_index[{position}]", f"is {index}; the batch has {batch.job_count} jobs")
    return sorted(set(indexes))


async def starts(batch: BatchView, cursors: Iterable[Cursor]) -> dict[tuple[int, LogStream], int]:
    """Where logs are to begin by a request's `cursors`.

    Raises:
        InvalidRequestError: a cursor names a job or a stream that is not there, or a place beyond what its log has.
    """
    found: dict[tuple[int, LogStream], int] = {}
    for position, cursor in enumerate(cursors):
        path = f"cursors[{position}]"
        if cursor.index >= batch.job_count:
            raise invalid(f"{path}.job_index", f"is {cursor.index}; the batch has {batch.job_count} jobs")
        streams = batch.job(cursor.index).spec.output.streams
        stream = cursor.stream or streams[0]
        if stream not in streams:
            raise invalid(f"{path}.stream", f"the job has {' and '.join(s.name for s in streams)}, not {stream.name}")
        if (cursor.index, stream) in found:
            raise invalid(path, "names a log that an earlier cursor names")
        size = size_now(batch, cursor.index, stream)
        if cursor.offset > size:
            raise invalid(f"{path}.offset", f"is {cursor.offset}, beyond the {size} bytes of the log")
        found[cursor.index, stream] = cursor.offset
        if position % _CHECKS_PER_TURN == _CHECKS_PER_TURN - 1:
            await asyncio.sleep(0)
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
