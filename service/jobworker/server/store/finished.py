"""A finished batch: read from its folder, never changed. Opening one reads a line from each end of its files; the index
of its jobs is made when the first job is asked for."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jobworker.server.errors import UNREADABLE, DamagedError
from jobworker.server.model import (
    BatchState,
    BatchWatcher,
    InThread,
    JobEnd,
    JobState,
    JobView,
    LogStream,
    batch_state,
)
from jobworker.server.slices import with_rests
from jobworker.server.store import gaps, results
from jobworker.server.store.batchfile import BatchReader, last_line
from jobworker.server.store.layout import RESULTS, log_name

_JOBS_AT_ONCE = 1000  # the index of so many takes 2 ms


class FinishedBatch:
    """A BatchView that does not change.

    Raises:
        FileNotFoundError: it is not there.
        DamagedError: its files cannot be read as a batch's.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._reader = BatchReader(folder)
        self.header = self._reader.header()
        closing = self._reader.closing()
        if closing is None:
            raise DamagedError("the batch's file is not whole", path=self._reader.path)
        self.job_count, self.digest = closing
        self._path = f"{folder}/{RESULTS}"
        self._ends: array[int] | None = None  # offset + 1 of the line that ended each job
        self._states = bytearray()
        with self._readable("the batch's results"):
            final = last_line(self._path, b'{"k":"final"', most_bytes=1024)
            if final is None:  # a machine died between the last end and this line; the ends are there
                self._index()
                final = self._summary()
            self._counts = {JobState(int(k)): int(v) for k, v in final["counts"].items()}
            self.started_at: int | None = final["started"]
            self.ended_at: int | None = final["ended"]

    @property
    def is_over(self) -> bool:
        return True

    @property
    def state(self) -> BatchState:
        return batch_state(self._counts, self.job_count)

    def counts(self) -> dict[JobState, int]:
        return dict(self._counts)

    def job_state(self, index: int) -> JobState:
        self._index()
        return JobState(self._states[index])

    def handed_out(self, index: int) -> bool:  # noqa: ARG002
        return False

    def job(self, index: int) -> JobView:
        ends = self._index()
        spec = self._reader.spec(index)
        with self._readable(f"the end of job {index}"), open(self._path, "rb") as file:
            file.seek(ends[index] - 1)
            d = json.loads(file.readline())
            end: JobEnd = results.decode_end(d) if d["k"] == "end" else results.skip_end(d, len(spec.output.streams))
        return JobView(index, spec, end.state, end.started_at, end)

    def log_path(self, index: int, stream: LogStream) -> str:
        return f"{self.folder}/{log_name(index, stream, self.job_count)}"

    def log_gaps(self, index: int, stream: LogStream) -> list[tuple[int, int]]:
        return gaps.read(self.log_path(index, stream))

    def subscribe(self, watcher: BatchWatcher) -> None:
        """Nothing changes any more."""

    def unsubscribe(self, watcher: BatchWatcher) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Gives the descriptor back; the next read opens it again."""
        self._reader.close()

    async def load(self, in_thread: InThread) -> None:
        if self.job_count > _JOBS_AT_ONCE and self._ends is None:
            await in_thread(self._load)

    def _load(self) -> None:
        self._reader.load()
        self._index(with_rests)

    def _index(self, paced: Callable[[Iterable[bytes]], Iterable[bytes]] = iter) -> array[int]:
        if self._ends is not None:
            return self._ends
        ends = array("Q", bytes(8 * self.job_count))
        states = bytearray(self.job_count)
        prefix = len(results.END_PREFIX)
        at = 0
        with self._readable("the batch's results"), open(self._path, "rb") as file:
            for line in paced(file):
                # An end's job and state are read without parsing the line: 100,000 of them take 0.1 s, not 0.5.
                if line.startswith(results.END_PREFIX):
                    comma = line.index(b",", prefix)
                    job = int(line[prefix:comma])
                    states[job] = int(line[comma + 9 : line.index(b",", comma + 9)])
                    ends[job] = at + 1
                elif line.startswith(b'{"k":"skip"'):
                    d = json.loads(line)
                    count = d["to"] - d["from"]
                    states[d["from"] : d["to"]] = bytes((d["state"],)) * count
                    ends[d["from"] : d["to"]] = array("Q", (at + 1,)) * count
                at += len(line)
        if 0 in states:
            raise DamagedError(f"the end of job {states.index(0)} is missing", path=self._path)
        self._states, self._ends = states, ends
        return ends

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as e:
            raise DamagedError(f"{what} cannot be read", path=self._path) from e

    def _summary(self) -> dict[str, Any]:
        ends = [self.job(i).end for i in range(self.job_count)]
        started = [e.started_at for e in ends if e is not None and e.started_at is not None]
        ended = [e.ended_at for e in ends if e is not None and e.ended_at is not None]
        return {
            "counts": {state: self._states.count(state) for state in set(self._states)},
            "started": min(started, default=None),
            "ended": max(ended, default=None),
        }
