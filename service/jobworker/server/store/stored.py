"""How much batches take of the disk: in bytes, and in files.

Bytes are the lengths of a batch's files: what a file system rounds up by, and its folders, are not in it; parts of a
log that were given back to the disk (fallocate(2), FALLOC_FL_PUNCH_HOLE) are not either. So they follow from the
records alone, on any file system; a disk gives up to 4 KiB more for each file. Files are the batch's folder,
`batch.jsonl`, `results.jsonl`, its logs and their folders; each job that is not final is one, for the log that it has
or will have. The folders of days and minutes, which batches share, and the commit log, which is bounded by itself,
count as nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from jobworker.server.errors import UNREADABLE
from jobworker.server.model import EndReason, JobEnd, LogStream
from jobworker.server.slices import with_rests
from jobworker.server.store.batchfile import last_line
from jobworker.server.store.layout import BATCH, RESULTS, SHARD_JOBS, log_name

FILES_OF_BATCH = 3  # its folder, batch.jsonl, results.jsonl
FINAL_BYTES = 1024  # no closing line of results.jsonl is longer
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's are: stat(2)
_STREAMS = tuple(LogStream)


@dataclass(slots=True)
class Stored:
    """What some batches take."""

    batches: int = 0
    bytes: int = 0
    files: int = 0

    def add(self, other: Stored) -> None:
        """These as well."""
        self.batches += other.batches
        self.bytes += other.bytes
        self.files += other.files

    def take(self, other: Stored) -> None:
        """These no more."""
        self.batches -= other.batches
        self.bytes -= other.bytes
        self.files -= other.files


class LogFiles:
    """What the logs of a batch take, as its records say."""

    __slots__ = ("_doubtful", "_job_count", "_shards", "_single", "bytes")

    def __init__(self, job_count: int) -> None:
        self.bytes = 0  # of jobs that are final
        self._job_count = job_count
        self._single = 0  # files of these
        self._shards: set[int] = set()  # folders, of a large batch
        # Jobs whose logs may not be there, or are there and have no end that says so: index -> bytes counted.
        self._doubtful: dict[int, int] = {}

    @property
    def files(self) -> int:
        """Their files and folders."""
        return self._single + len(self._shards)

    def ended(self, job: int, end: JobEnd) -> None:
        """A job is final."""
        size = end.stored_log_bytes
        self.bytes += size
        reason = end.reason
        if reason is EndReason.EXECUTOR_LOST or reason is EndReason.MACHINE_LOST or reason is EndReason.DAMAGED:
            self._doubtful[job] = size
            return
        if self._doubtful:
            self._doubtful.pop(job, None)
        self._single += len(end.log_bytes)
        if self._job_count > SHARD_JOBS:
            self._shards.add(job // SHARD_JOBS)

    def returned(self, job: int) -> None:
        """A job was ordered, and did not start."""
        self._doubtful[job] = 0

    def closing(self, folder: str) -> tuple[int, int]:
        """Bytes and files of all, once no job is left; of doubtful ones the files are looked at. Blocks; any thread."""
        size, files, shards = self.bytes, self._single, set(self._shards)
        for job, counted in self._doubtful.items():
            size -= counted
            for stream in _STREAMS:
                found = log_bytes(f"{folder}/{log_name(job, stream, self._job_count)}")
                if found is not None:
                    size += found
                    files += 1
                    if self._job_count > SHARD_JOBS:
                        shards.add(job // SHARD_JOBS)
        return size, files + len(shards)


def log_bytes(path: str) -> int | None:
    """What a log takes, its holes left out; None: it is not there. Blocks."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return min(found.st_size, found.st_blocks * _BLOCK_BYTES)


def stored_in(folder: str) -> Stored:
    """What a finished batch takes: by its closing line, or, of older versions, by each of its files. Blocks."""
    try:
        final = last_line(f"{folder}/{RESULTS}", b'{"k":"final"', most_bytes=FINAL_BYTES)
        logs = None if final is None else _logs(final)
        if logs is not None:
            size = sum(os.lstat(f"{folder}/{name}").st_size for name in (BATCH, RESULTS))
            return Stored(1, size + logs[0], FILES_OF_BATCH + logs[1])
    except (OSError, *UNREADABLE):
        pass  # then it is looked through, as far as that goes
    return _looked_through(folder)


def _logs(final: dict[str, Any]) -> tuple[int, int] | None:
    match final.get("logs"):
        case [int(size), int(files)]:
            return size, files
        case _:
            return None


def _looked_through(folder: str) -> Stored:
    found = Stored(1, 0, 0)
    for place, _, names in with_rests(os.walk(folder)):
        found.files += 1 + len(names)
        for name in names:
            found.bytes += log_bytes(f"{place}/{name}") or 0
    return found


def encode(users: dict[str, Stored]) -> dict[str, list[int]]:
    """For JSON."""
    return {user: [stored.batches, stored.bytes, stored.files] for user, stored in users.items()}


def decode(users: dict[str, list[int]]) -> dict[str, Stored]:
    """What `encode` made."""
    return {user: Stored(*numbers) for user, numbers in users.items()}
