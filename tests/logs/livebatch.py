"""A batch whose jobs a test runs by hand: real files, in a real folder that moves when the batch ends."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from jobworker.executor import libc
from jobworker.server.ids import CorrelationId
from jobworker.server.model import (
    BatchHeader,
    BatchState,
    BatchWatcher,
    EndReason,
    InThread,
    JobEnd,
    JobSpec,
    JobState,
    JobView,
    LogStream,
    OutputMode,
    batch_state,
)
from jobworker.server.store import gaps

NOW_NS = 1_764_000_000_123_456_789


class LiveBatch:
    """A BatchView, with `start`, `write`, `end` and `skip` for what an executor would do."""

    def __init__(self, root: Path, jobs: int, *, output: OutputMode = OutputMode.MERGED, user: str = "alice") -> None:
        self.header = BatchHeader(
            correlation_id=CorrelationId.make(NOW_NS // 1_000_000),
            user=user,
            accepted_at=NOW_NS,
            name="",
            parallelism=4,
            fail_fast=False,
            labels={},
        )
        self.job_count = jobs
        self.started_at: int | None = None
        self.ended_at: int | None = None
        self.watchers: set[BatchWatcher] = set()
        self.handed: set[int] = set()  # given to the executor, which has not told the start
        self.folder = root / "active" / self.header.correlation_id
        self.folder.mkdir(parents=True)
        self._finished_folder = root / "finished" / self.header.correlation_id
        spec = JobSpec(command="true", output=output)
        self._jobs = [JobView(i, spec, JobState.QUEUED, None, None) for i in range(jobs)]

    # BatchView

    @property
    def state(self) -> BatchState:
        return batch_state(self.counts(), self.job_count)

    @property
    def is_over(self) -> bool:
        return self.state.final

    @property
    def complete(self) -> bool:
        return self.state.final

    def counts(self) -> dict[JobState, int]:
        counts: dict[JobState, int] = {}
        for job in self._jobs:
            counts[job.state] = counts.get(job.state, 0) + 1
        return counts

    def job_state(self, index: int) -> JobState:
        return self._jobs[index].state

    def handed_out(self, index: int) -> bool:
        return index in self.handed

    def job(self, index: int) -> JobView:
        return self._jobs[index]

    def log_path(self, index: int, stream: LogStream) -> str:
        return str(self.folder / f"{index}.{stream.name.lower()}")

    def log_gaps(self, index: int, stream: LogStream) -> list[tuple[int, int]]:
        return gaps.read(self.log_path(index, stream))

    async def load(self, in_thread: InThread) -> None:
        """All is in memory."""

    def subscribe(self, watcher: BatchWatcher) -> None:
        if not self.state.final:
            self.watchers.add(watcher)

    def unsubscribe(self, watcher: BatchWatcher) -> None:
        self.watchers.discard(watcher)

    # What happens

    def start(self, index: int) -> None:
        """The job runs, its logs are there and empty."""
        for stream in self._jobs[index].spec.output.streams:
            Path(self.log_path(index, stream)).touch()
        self.started_at = self.started_at or NOW_NS
        self._jobs[index] = replace(self._jobs[index], state=JobState.RUNNING, started_at=NOW_NS)
        self._tell(index)

    def write(self, index: int, data: bytes, stream: LogStream | None = None) -> None:
        """The job prints."""
        stream = stream or self._jobs[index].spec.output.streams[0]
        with open(self.log_path(index, stream), "ab", buffering=0) as file:
            file.write(data)

    def punch(self, index: int, size: int) -> None:
        """The executor takes so many bytes out again, the first of its first log."""
        with open(self.log_path(index, self._jobs[index].spec.output.streams[0]), "r+b") as file:
            libc.punch_hole(file.fileno(), 0, size)

    def end(
        self,
        index: int,
        *,
        exit_code: int = 0,
        log_bytes: tuple[int, ...] | None = None,
        dropped_head: tuple[int, ...] = (),
        dropped_tail: tuple[int, ...] = (),
    ) -> None:
        """The job ends by itself; its logs are as long as their files unless `log_bytes` says otherwise."""
        streams = self._jobs[index].spec.output.streams
        sizes = log_bytes or tuple(os.stat(self.log_path(index, stream)).st_size for stream in streams)
        state = JobState.FAILED if exit_code else JobState.SUCCEEDED
        self._end(
            index,
            JobEnd(
                state,
                EndReason.EXITED,
                exit_code=exit_code,
                waited=True,
                started_at=NOW_NS,
                ended_at=NOW_NS + 1,
                log_bytes=sizes,
                dropped_head=dropped_head,
                dropped_tail=dropped_tail,
            ),
        )

    def skip(self, index: int) -> None:
        """The job never starts."""
        self._end(index, JobEnd(JobState.SKIPPED, EndReason.CANCELLED, ended_at=NOW_NS, log_bytes=(0,)))

    def fail_to_start(self, index: int) -> None:
        """The job's program is not there."""
        self._end(index, JobEnd(JobState.FAILED, EndReason.SPAWN_FAILED, detail="no such program", log_bytes=(0,)))

    def run(self, index: int, data: bytes) -> None:
        """The job starts, prints and ends."""
        self.start(index)
        self.write(index, data)
        self.end(index)

    def _end(self, index: int, end: JobEnd) -> None:
        self._jobs[index] = replace(self._jobs[index], state=end.state, end=end)
        self._tell(index)
        if self.state.final:
            self.ended_at = NOW_NS + 1
            self._finished_folder.parent.mkdir(exist_ok=True)
            os.rename(self.folder, self._finished_folder)
            self.folder = self._finished_folder
            watchers, self.watchers = self.watchers, set()
            for watcher in watchers:
                watcher.finished()

    def _tell(self, index: int) -> None:
        for watcher in tuple(self.watchers):
            watcher.changed(index)
