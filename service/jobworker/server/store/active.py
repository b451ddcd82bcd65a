"""An unfinished batch as callers see it, and the ledger's handle on it.

It has two states, made by one reducer (core/batch.py): `recorded` has what was handed to the commit log, and decides
what happens next; `visible` has what is durable, and is what anyone sees. Memory is bounded by 10 bytes a job, what
runs, and what is not in the batch's files yet: specs and ends are read back from disk when somebody asks.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from typing import TypeVar

from jobworker.server.core.batch import Batch
from jobworker.server.core.records import Ended, Record, Returned, Skipped, Started
from jobworker.server.errors import UNREADABLE, DamagedError
from jobworker.server.model import (
    BatchHeader,
    BatchState,
    BatchWatcher,
    InThread,
    JobEnd,
    JobState,
    JobView,
    LogStream,
    OutputMode,
    batch_state,
)
from jobworker.server.store import gaps, results
from jobworker.server.store.batchfile import BatchReader
from jobworker.server.store.layout import RESULTS, log_name
from jobworker.server.store.stored import FILES_OF_BATCH, LogFiles, Stored

T = TypeVar("T")

_STATES = tuple(JobState)  # an enum is slow to go through


class ActiveBatch:
    """A BatchView. The ledger alone changes it."""

    def __init__(
        self, *, folder: str, header: BatchHeader, digest: str, state: Batch, reader: BatchReader, spec_bytes: int
    ) -> None:
        """`spec_bytes`: how long its `batch.jsonl` is."""
        self.header = header
        self.digest = digest
        self.job_count = state.job_count
        self.reader = reader
        self.recorded = state
        self.visible = state.copy()
        self.is_over = False
        self.held = False  # what its jobs need is not there just now
        self.cancels = 0  # under way; nothing is started meanwhile
        self.in_flight = 0  # records that were handed to the commit log and are not durable yet
        # What is durable in the commit log, and not yet written to results.jsonl: from `written` on.
        self.tail = bytearray()
        self.written = 0
        self.recorded_bytes = 0  # how long results.jsonl is with all that was handed to the commit log
        self.moving_to: str | None = None  # while its folder is moved to where finished ones lie
        # What it takes of the disk (store/accounts.py).
        self.accounted = Stored()  # as it was last told
        self.logs = LogFiles(self.job_count)
        # Bytes of running jobs' logs, as they were last looked at (store/growth.py), and of all of them.
        self._growing: dict[int, int] = {}
        self._growing_bytes = 0
        self._spec_bytes = spec_bytes
        self._closing: tuple[int, int, int] | None = None  # the closing line's length, bytes and files of all logs
        self._folder = folder
        self._end_at = array("Q", bytes(8 * self.job_count))  # offset + 1 of the line that ended the job
        self._watchers: set[BatchWatcher] = set()

    # -- BatchView

    async def load(self, in_thread: InThread) -> None:
        """What is needed to find a job was read when the batch came."""

    @property
    def folder(self) -> str:
        """Where it lies."""
        if self.moving_to is not None and os.path.exists(self.moving_to):
            self.moved(self.moving_to)
        return self._folder

    @property
    def state(self) -> BatchState:
        """From what is durable."""
        return batch_state(self.counts(), self.job_count)

    @property
    def started_at(self) -> int | None:
        return self.visible.started_at

    @property
    def ended_at(self) -> int | None:
        return self.visible.ended_at

    def counts(self) -> dict[JobState, int]:
        counts = self.visible.counts
        return {state: counts[state] for state in _STATES if counts[state]}

    def job_state(self, index: int) -> JobState:
        return JobState(self.visible.states[index])

    def handed_out(self, index: int) -> bool:
        return index in self.recorded.running

    def job(self, index: int) -> JobView:
        state = self.job_state(index)
        spec = self._where_it_lies(lambda: self.reader.spec(index))
        end = self._where_it_lies(lambda: self._read_end(index, spec.output)) if state.final else None
        started_at = end.started_at if end is not None else self.visible.started.get(index)
        return JobView(index, spec, state, started_at, end)

    def job_id(self, index: int) -> str:
        """What an executor calls a job."""
        return f"{self.header.correlation_id}/{index}"

    def log_path(self, index: int, stream: LogStream) -> str:
        return f"{self.folder}/{log_name(index, stream, self.job_count)}"

    def log_gaps(self, index: int, stream: LogStream) -> list[tuple[int, int]]:
        return gaps.read(self.log_path(index, stream))

    def subscribe(self, watcher: BatchWatcher) -> None:
        if not self.is_over:
            self._watchers.add(watcher)

    def unsubscribe(self, watcher: BatchWatcher) -> None:
        self._watchers.discard(watcher)

    def _where_it_lies(self, read: Callable[[], T]) -> T:
        """Reads again where the folder was moved meanwhile."""
        folder = self._folder
        try:
            return read()
        except FileNotFoundError:
            if self.folder == folder:
                raise
            return read()

    def _read_end(self, index: int, output: OutputMode) -> JobEnd:
        at = self._end_at[index] - 1
        path = f"{self.folder}/{RESULTS}"
        if at >= self.written:
            begin = at - self.written
            line = bytes(self.tail[begin : self.tail.index(b"\n", begin) + 1])
        else:
            with open(path, "rb") as file:
                file.seek(at)
                line = file.readline()
        try:
            d = json.loads(line)
            return results.decode_end(d) if d["k"] == "end" else results.skip_end(d, len(output.streams))
        except UNREADABLE as e:
            raise DamagedError(f"the end of job {index} cannot be read", path=path) from e

    # -- what the scheduler asks

    def startable(self, *, ahead: bool = True) -> int:
        """How many of its jobs could be ordered now; with those ahead of their turn, or without."""
        return 0 if self.held or self.cancels else self.recorded.startable(ahead=ahead)

    @property
    def running(self) -> dict[int, str]:
        """Jobs with an executor, and its epoch."""
        return self.recorded.running

    @property
    def open_count(self) -> int:
        """How many jobs are recorded as not final; at no cost."""
        return self.recorded.open_count

    @property
    def queued_count(self) -> int:
        """How many of these are not with an executor; at no cost."""
        return self.recorded.queued_count

    @property
    def settling(self) -> bool:
        """Something was recorded, and is not durable yet; or jobs are just being cancelled."""
        return self.cancels > 0 or self.in_flight > 0

    @property
    def complete(self) -> bool:
        """Every job is final, and that is durable."""
        return self.visible.complete

    # -- what it takes of the disk

    @property
    def stored_bytes(self) -> int:
        """See store/stored.py."""
        lines = self._spec_bytes + self.written + len(self.tail)
        if self._closing is not None:
            return lines + self._closing[0] + self._closing[1]
        return lines + self.logs.bytes + self._growing_bytes

    @property
    def stored_files(self) -> int:
        """See store/stored.py."""
        if self._closing is not None:
            return FILES_OF_BATCH + self._closing[2]
        return FILES_OF_BATCH + self.logs.files + self.visible.open_count

    def note_growth(self, index: int, log_bytes: int) -> None:
        """So long are the logs of a job that runs."""
        if index in self.visible.running:
            self._growing_bytes += log_bytes - self._growing.get(index, 0)
            self._growing[index] = log_bytes

    def close_results(self, folder: str) -> bytes:
        """The closing line of its results, once every job is final. Blocks; any thread."""
        logs = self.logs.closing(folder)
        line = results.final_line(self.counts(), self.started_at, self.ended_at, logs)
        self._closing = len(line), *logs
        return line

    # -- the ledger's

    @property
    def content(self) -> bytes:
        """What `batch.jsonl` is to hold, while the batch has no folder."""
        return self.reader.content

    def apply_durable(self, records: list[tuple[Record, int]], lines: bytes) -> None:
        """Records are durable: each with where its line begins in `lines`, which follow what there was. Tells the
        watchers."""
        begin = self.written + len(self.tail)
        self.tail += lines
        visible, watchers = self.visible, tuple(self._watchers)
        for record, at in records:
            visible.apply(record)
            self.note_line(record, begin + at)
        for watcher in watchers:
            for record, _ in records:
                if isinstance(record, Ended | Started):
                    watcher.changed(record.job)
                elif isinstance(record, Skipped):
                    watcher.changed_many(record.begin, record.stop)

    def note_line(self, record: Record, at: int) -> None:
        """A record was taken in, and where its line begins."""
        if isinstance(record, Ended):
            self._end_at[record.job] = at + 1
            self.logs.ended(record.job, record.end)
            if self._growing:
                self._growing_bytes -= self._growing.pop(record.job, 0)
        elif isinstance(record, Skipped):
            count = record.stop - record.begin
            self._end_at[record.begin : record.stop] = array("Q", (at + 1,)) * count
        elif isinstance(record, Returned):
            self.logs.returned(record.job)

    def end_offset(self, index: int) -> int | None:
        """Where the line that ended a job begins in the results; None: none did."""
        return self._end_at[index] - 1 if self._end_at[index] else None

    def note_written(self, count: int) -> None:
        """So much of the tail is in the files now, and the batch's own file."""
        self.reader.content = b""
        del self.tail[:count]
        self.written += count

    def recovered(self, written: int, tail: bytearray) -> None:
        """What was applied to `recorded` is durable: so much of its lines is in the file, and these are not."""
        self.visible = self.recorded.copy()
        self.written, self.tail, self.recorded_bytes = written, tail, written + len(tail)

    def forget_undurable(self) -> None:
        """What was handed to the commit log, and did not become durable, never happened."""
        self.recorded = self.visible.copy()
        self.recorded_bytes = self.written + len(self.tail)

    def tell_finished(self) -> None:
        """Every job is final, and the folder was moved, or the disk would not have it: nothing changes any more."""
        self.is_over = True
        watchers, self._watchers = self._watchers, set()
        for watcher in watchers:
            watcher.finished()

    def moved(self, folder: str) -> None:
        """Its folder lies elsewhere now."""
        self._folder, self.moving_to = folder, None
        self.reader.moved(folder)

    def close(self) -> None:
        """Gives descriptors back."""
        self.reader.close()
