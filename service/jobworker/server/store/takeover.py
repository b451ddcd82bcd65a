"""Reads unfinished batches of the versions before the commit log, whose `results.jsonl` was the record: appended,
synced now and then, with marks of how far jobs may have started.
"""

from __future__ import annotations

import os
from typing import Any

from jobworker.server.core.records import Ordered
from jobworker.server.errors import DamagedError
from jobworker.server.model import JobState
from jobworker.server.store import results
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batchfile import BatchReader
from jobworker.server.store.layout import RESULTS
from jobworker.server.store.replay import Report, apply_line, read_batch


def read(folder: str, *, boot: str, report: Report) -> tuple[ActiveBatch | None, list[int]]:
    """The batch of a folder, and its jobs that a machine's death took; None: it was never accepted.

    Raises:
        DamagedError: it cannot be read.
    """
    if BatchReader(folder).closing() is None:
        if os.path.exists(f"{folder}/{RESULTS}"):
            raise DamagedError("the batch's file is not whole, and jobs of it ran", path=folder)
        return None, []
    batch = read_batch(folder)
    path = f"{folder}/{RESULTS}"
    if cut := _cut_torn_line(path):
        report(path, f"a torn last line of {cut} bytes was cut off")
    mark: dict[str, Any] | None = None
    for offset, line in results.read_lines(path, lambda at, _: report(path, f"a damaged line at byte {at}")):
        if line["k"] == "mark":
            mark = line
        else:
            apply_line(batch, line, offset, report)
    lost: list[int] = []
    # On the life of the machine that wrote the mark the intents are complete: a job without one never started.
    if mark is not None and mark["boot"] != boot:
        lost = _lost(batch, min(int(mark["below"]), batch.job_count))
    batch.recovered(os.path.getsize(path) if os.path.exists(path) else 0, bytearray())
    return batch, lost


def _lost(batch: ActiveBatch, below: int) -> list[int]:
    """On another life of the machine lines may be missing that were not synced: every job below the mark may have
    run."""
    states = batch.recorded.states
    lost = [index for index in range(below) if not JobState(states[index]).final]
    lost += [index for index in batch.recorded.running if index >= below]
    unknown = tuple(index for index in lost if index not in batch.recorded.running)
    batch.recorded.apply(Ordered(unknown, "", 0))
    return sorted(lost)


def _cut_torn_line(path: str) -> int:
    """Cuts off a last line that has no newline; returns the bytes cut."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size = end = os.fstat(fd).st_size
        while end:
            begin = max(0, end - 65536)
            piece = os.pread(fd, end - begin, begin)
            if (newline := piece.rfind(b"\n")) >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            os.ftruncate(fd, end)
        return size - end
    finally:
        os.close(fd)
