"""What a power failure took of logs: noted beside each log in `<log>.gaps`, and told as a gap, not as data.

Logs are not synced while jobs run. A file system may have a file's length on disk and not its last bytes (ext4 in its
default mode: data=ordered vouches for blocks that are new, and not for what was appended to one): they are read as NUL,
up to the end of a block or of the file. A job can write NUL bytes itself, so these are not known to be lost. But nobody
can vouch for them, and a gap says no more: it is noted for logs alone that no checkpoint had made durable.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from jobworker.server.errors import UNREADABLE, DamagedError
from jobworker.server.model import JobState, LogStream
from jobworker.server.store.disk import Disk
from jobworker.server.store.logsize import log_size

if TYPE_CHECKING:
    from jobworker.server.store.active import ActiveBatch

_SUFFIX = ".gaps"
_PIECE_BYTES = 1 << 20
_PAGE_BYTES = 4096  # what the kernel writes back at a time, or a block of the file system, where that is less

Gap = tuple[int, int]  # from this byte to before that one


def read(log_path: str) -> list[Gap]:
    """Those of a log, in order.

    Raises:
        DamagedError: they cannot be read.
    """
    path = f"{log_path}{_SUFFIX}"
    try:
        with open(path, "rb") as file:
            return [(int(begin), int(stop)) for begin, stop in json.load(file)]
    except FileNotFoundError:
        return []
    except UNREADABLE as e:
        raise DamagedError("what is missing of the log cannot be read", path=path) from e


def note(batch: ActiveBatch, *, synced: int, disk: Disk, report: Callable[[str, str], object]) -> None:
    """Looks through the logs of a batch's jobs when the machine has died, but for those whose ends lie before byte
    `synced` of its results: these were on disk. Syncs nothing."""
    for index in range(batch.job_count):
        if batch.job_state(index) is JobState.QUEUED and not batch.handed_out(index):
            continue
        end = batch.end_offset(index)
        if end is not None and end < synced:
            continue
        for stream in LogStream:
            path = batch.log_path(index, stream)
            with contextlib.suppress(FileNotFoundError):
                found = list(_find(path))
                if found:
                    _write(f"{path}{_SUFFIX}", found, disk, report)


def _find(path: str) -> Iterator[Gap]:
    """Runs of NUL bytes up to the end of a block, or of the file. Not what was dropped to keep the end (logsize.py)."""
    size, at = log_size(path)
    with open(path, "rb", buffering=0) as file:
        block = min(os.fstatvfs(file.fileno()).f_frsize or _PAGE_BYTES, _PAGE_BYTES)
        begin = None  # of a run that reaches to `at`
        while at < size:
            data = _next_data(file.fileno(), at, size)
            if data > at:  # a hole, of any length
                begin = at if begin is None else begin
                at = data
                continue
            piece = os.pread(file.fileno(), _PIECE_BYTES, at)
            if not piece:
                break
            for start in range(0, len(piece), block):
                part = piece[start : start + block]
                length = len(part.rstrip(b"\0"))
                if begin is not None and length:
                    yield begin, at
                    begin = None
                if begin is None and length < len(part):
                    begin = at + length
                at += len(part)
        if begin is not None:
            yield begin, at


def _next_data(fd: int, at: int, size: int) -> int:
    """lseek(2), SEEK_DATA; a file system that cannot tell has no holes."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as e:
        return size if e.errno == errno.ENXIO else at


def _write(path: str, found: list[Gap], disk: Disk, report: Callable[[str, str], object]) -> None:
    try:
        disk.write_whole(path, json.dumps(found).encode())
    except OSError as e:
        report(path, f"what a power failure took of the log cannot be noted: {e}")
