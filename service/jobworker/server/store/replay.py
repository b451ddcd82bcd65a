"""Makes an unfinished batch from its files."""

from __future__ import annotations

import os
from collections.abc import Callable

from jobworker.server.core.batch import Batch
from jobworker.server.errors import UNREADABLE, DamagedError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import TransitionError
from jobworker.server.store import results
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batchfile import BatchReader
from jobworker.server.store.layout import RESULTS

Report = Callable[[str, str], object]


def read_batch(folder: str, content: bytes = b"") -> ActiveBatch:
    """The batch of a folder, as accepted: nothing of its results is read. `content` of its file, where that could not
    be written.

    Raises:
        DamagedError: its file is not whole, or another batch's.
    """
    reader = BatchReader(folder, content=content)
    closing = reader.closing()
    if closing is None:
        raise DamagedError("the batch's file is not whole", path=reader.path)
    header = reader.header()
    if header.correlation_id != CorrelationId.parse(os.path.basename(folder)):
        raise DamagedError("the folder is named after another batch", path=folder)
    offsets = reader.load()
    if len(offsets) != closing[0] + 1:
        raise DamagedError(f"the batch's file has {len(offsets) - 1} jobs, and says {closing[0]}", path=reader.path)
    size = len(content) or os.path.getsize(reader.path)
    state = Batch(job_count=closing[0], parallelism=header.parallelism, fail_fast=header.fail_fast)
    return ActiveBatch(folder=folder, header=header, digest=closing[1], state=state, reader=reader, spec_bytes=size)


def apply_line(batch: ActiveBatch, line: dict[str, object], offset: int, report: Report) -> None:
    """Takes a line of the results in; `batch.recovered` is to follow the last."""
    try:
        record = results.decode(line)
        if record is not None and batch.recorded.apply(record):
            batch.note_line(record, offset)
    except (*UNREADABLE, TransitionError) as e:
        report(f"{batch.folder}/{RESULTS}", f"the line at byte {offset} is passed over: {e}")
