"""The end of a job that nobody saw end."""

from __future__ import annotations

import os

from jobworker.server.errors import DamagedError
from jobworker.server.model import EndReason, JobEnd, JobState
from jobworker.server.store.active import ActiveBatch


def lost_end(batch: ActiveBatch, index: int, *, reason: EndReason, at: int) -> JobEnd:
    """LOST, with what is known: its start, and its logs as long as they are. `at` in Unix nanoseconds."""
    sizes = []
    try:
        for stream in batch.reader.spec(index).output.streams:
            try:
                sizes.append(os.stat(batch.log_path(index, stream)).st_size)
            except FileNotFoundError:
                sizes.append(0)
    except DamagedError:
        sizes = [0]
    return JobEnd(
        state=JobState.LOST,
        reason=reason,
        started_at=batch.started_of(index),
        ended_at=at,
        log_bytes=tuple(sizes),
    )
