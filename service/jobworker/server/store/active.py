"""An unfinished batch: its jobs' states in a byte each, its files, and who watches it.

Memory is bounded by 17 bytes a job and what runs: specs and ends are read back from disk when somebody asks. The
methods that change it are called by the scheduler and by recovery alone.

What callers see of a job (`job_state`) turns final only once its end is durable; `settled` says what is recorded.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain

from jobworker.server.errors import DamagedError
from jobworker.server.model import (
    TRANSITIONS,
    BatchHeader,
    BatchState,
    BatchWatcher,
    EndReason,
    InThread,
    JobEnd,
    JobState,
    JobView,
    LogStream,
    OutputMode,
    TransitionError,
    batch_state,
)
from jobworker.server.store import results
from jobworker.server.store.batchfile import BatchReader
from jobworker.server.store.journal import Journal, Syncer
from jobworker.server.store.layout import RESULTS, log_name, move

# How far the synced mark "jobs below may have started" runs ahead: after a machine's death, at most so many jobs of a
# batch that had not started are LOST with those that had.
MARK_WINDOW = 512
# A batch whose jobs are quick has some ordered ahead of their turn: the executor holds them until a place is free, and
# starts the next without asking. At most so many would be LOST, not knowing better, if it died.
AHEAD_JOBS = 8
QUICK_NS = 50_000_000
# Plain numbers where each quick job passes: an enum's members are slow to look up and to compare.
_QUEUED, _RUNNING = int(JobState.QUEUED), int(JobState.RUNNING)


# By a job's state: 1 where it is queued, or not final; else 0.
_IF_QUEUED = bytes(state == _QUEUED for state in range(256))
_IF_OPEN = bytes(_QUEUED <= state <= _RUNNING for state in range(256))
_QUEUED_RUN = re.compile(rb"\x01+")

# Told which jobs are final, once that is durable.
Done = Callable[[list[tuple[int, JobEnd]]], None]
# Told which ranges of jobs were skipped, and how each of them ended: without log sizes.
Skipped = Callable[[list[tuple[int, int]], JobEnd], None]


class ActiveBatch:
    """A BatchView, and the scheduler's handle on the batch."""

    def __init__(
        self, *, folder: str, header: BatchHeader, job_count: int, offsets: array[int] | None, syncer: Syncer, boot: str
    ) -> None:
        self.header = header
        self.job_count = job_count
        self.folder = folder
        self.ended_at: int | None = None
        self.started_at: int | None = None
        self.reader = BatchReader(folder, offsets)
        self.journal = Journal(f"{folder}/{RESULTS}", syncer=syncer)
        self.settled = bytearray([JobState.QUEUED]) * job_count
        self.running: dict[int, str] = {}  # ordered and not ended: index -> epoch of the executor it was ordered from
        self.again: deque[int] = deque()  # jobs below `next` whose order never arrived
        self.next = 0
        self.mark = 0
        self.failed_fast = False
        self.held = False  # its files cannot be written just now
        self.cancels = 0  # under way; nothing is started meanwhile
        self._ahead = 0
        self._marking = 0
        self._boot = boot
        self._shown = bytearray(self.settled)
        self._counts: dict[int, int] = {JobState.QUEUED: job_count}
        self._final = 0
        self._open = job_count
        self._end_at = array("Q", bytes(8 * job_count))  # offset + 1 of the line that ended the job
        self._started_at: dict[int, int] = {}
        self._watchers: set[BatchWatcher] = set()

    # -- BatchView

    async def load(self, in_thread: InThread) -> None:
        """All is in memory."""

    @property
    def state(self) -> BatchState:
        """From the counts that are durable."""
        return batch_state(self.counts(), self.job_count)

    def counts(self) -> dict[JobState, int]:
        return {JobState(state): n for state, n in self._counts.items()}

    def job_state(self, index: int) -> JobState:
        return JobState(self._shown[index])

    def handed_out(self, index: int) -> bool:
        return index in self.running

    def job(self, index: int) -> JobView:
        state = self.job_state(index)
        spec = self.reader.spec(index)
        end = self._read_end(index, spec.output) if state.final else None
        started_at = end.started_at if end is not None else self._started_at.get(index)
        return JobView(index, spec, state, started_at, end)

    def log_path(self, index: int, stream: LogStream) -> str:
        return f"{self.folder}/{log_name(index, stream, self.job_count)}"

    def subscribe(self, watcher: BatchWatcher) -> None:
        if not self.complete:
            self._watchers.add(watcher)

    def unsubscribe(self, watcher: BatchWatcher) -> None:
        self._watchers.discard(watcher)

    def _read_end(self, index: int, output: OutputMode) -> JobEnd:
        path = f"{self.folder}/{RESULTS}"
        with open(path, "rb") as file:
            file.seek(self._end_at[index] - 1)
            line = file.readline()
        try:
            d = json.loads(line)
            return results.decode_end(d) if d["k"] == "end" else results.skip_end(d, len(output.streams))
        except (ValueError, KeyError, TypeError) as e:
            raise DamagedError(f"the end of job {index} cannot be read", path=path) from e

    # -- what there is to start

    @property
    def startable(self) -> bool:
        """A job could be started now, as far as this batch is concerned."""
        return (
            len(self.running) < self.header.parallelism + self._ahead
            and (bool(self.again) or self.next < min(self.mark, self.job_count))
            and self.journal.poison is None
            and not self.held
            and not self.cancels
        )

    def move_mark(self, moved: Callable[[], None]) -> None:
        """Has the mark one window further made durable, once the last half of it is reached; calls `moved` then."""
        wanted = min(self.job_count, self.next + MARK_WINDOW)
        if self._marking or wanted <= self.mark or self.mark - self.next > MARK_WINDOW // 2:
            return
        self.journal.append(results.mark_line(wanted, self._boot))
        self._marking = wanted

        def durable() -> None:
            self.mark, self._marking = self._marking, 0
            moved()

        self.journal.when_durable(durable)

    def take(self, epoch: str) -> int:
        """The next job to start; it counts as running from here on."""
        index = self.again.popleft() if self.again else self.next
        if index == self.next:
            self.next += 1
        self.running[index] = epoch
        self.skip_settled()
        return index

    def put_back(self, index: int) -> None:
        """A job that was ordered never arrived at the executor; it is queued again."""
        del self.running[index]
        self.again.append(index)

    def skip_settled(self) -> None:
        """Moves `next` past jobs that are final already."""
        found = self.settled.find(_QUEUED, self.next)
        self.next = found if found >= 0 else self.job_count

    def give_back(self, index: int) -> None:
        """The executor stopped before it started a job; it is queued again, and recorded so."""
        self.journal.append(results.back_line(index))
        self.put_back(index)

    # -- what happened; journal lines first, then these

    def intend(self, jobs: list[int], epoch: str, at: int) -> None:
        """Writes the intent to start jobs, before they are ordered."""
        self.journal.append(results.order_line(jobs, epoch, at))

    def start(self, index: int, at: int) -> bool:
        """The executor says that a job runs; False: that was known."""
        if self.settled[index] != _QUEUED:
            return False
        self.journal.append(results.start_line(index, at))
        self.note_start(index, at)
        self._tell(index)
        return True

    def end(self, ends: list[tuple[int, JobEnd]], done: Done) -> None:
        """Records ends, in one write; they are shown, and `done` called with them, once they are durable. A job that is
        settled already is passed over."""
        lines = bytearray()
        fresh: list[tuple[int, int, JobEnd]] = []
        seen: set[int] = set()
        for index, end in ends:
            if index in seen or self.settled[index] > _RUNNING:
                continue
            seen.add(index)
            fresh.append((index, len(lines), end))
            lines += results.end_line(index, end)
        if not fresh:
            return
        begin = self.journal.append(bytes(lines))
        self._look_ahead(fresh[-1][2])
        for index, offset, end in fresh:
            self._settle(index, end.state, begin + offset)
        self.journal.when_durable(lambda: self._show([(index, end) for index, _, end in fresh], done))

    def _look_ahead(self, last: JobEnd) -> None:
        took_ns = (last.ended_at or 0) - (last.started_at or 0)
        # Not with fail_fast: the next job must not start before the end of this one is known here.
        quick = took_ns < QUICK_NS and not self.header.fail_fast
        self._ahead = min(AHEAD_JOBS, self.header.parallelism) if quick else 0

    def skip(self, ranges: list[tuple[int, int]], reason: EndReason, at: int, done: Skipped) -> None:
        """Ends jobs that never started: those of the ranges, ascending, that are queued still. A million in one range
        cost a few milliseconds; each range costs a line."""
        fresh = [run.span() for begin, stop in ranges for run in list(_QUEUED_RUN.finditer(self.settled, begin, stop))]
        if not fresh:
            return
        lines = bytearray()
        starts = []
        for begin, stop in fresh:
            starts.append(len(lines))
            lines += results.skip_line(begin, stop, JobState.SKIPPED, reason, at)
        offset = self.journal.append(bytes(lines))
        for (begin, stop), start in zip(fresh, starts, strict=True):
            count = stop - begin
            self.settled[begin:stop] = bytes((JobState.SKIPPED,)) * count
            self._end_at[begin:stop] = array("Q", (offset + start + 1,)) * count
            self._open -= count
        if self.again:
            self.again = deque(i for i in self.again if self.settled[i] == JobState.QUEUED)
        self.skip_settled()
        end = JobEnd(state=JobState.SKIPPED, reason=reason, ended_at=at)
        # As plain numbers until then: the garbage collector would look at hundreds of thousands of tuples at once.
        kept = array("Q", chain.from_iterable(fresh))
        self.journal.when_durable(lambda: self._show_skipped(list(zip(kept[::2], kept[1::2], strict=True)), end, done))

    def queued_ranges(self, wanted: bytes | bytearray | None) -> Iterator[tuple[int, int]]:
        """Jobs that now have neither started nor been ordered; of the wanted ones, a byte of 1 a job, or (None) all."""
        queued = bytearray(self.settled.translate(_IF_QUEUED))
        for index in self.running:
            queued[index] = 0
        found = bytes(_both(queued, wanted))
        return (run.span() for run in _QUEUED_RUN.finditer(found))

    def unfinished(self, wanted: bytes | bytearray | None) -> bytearray:
        """A byte of 1 for each wanted job that is not final, as callers see it."""
        return _both(self._shown.translate(_IF_OPEN), wanted)

    @property
    def open_count(self) -> int:
        """How many jobs are recorded as not final; at no cost."""
        return self._open

    @property
    def queued_count(self) -> int:
        """How many these are; at no cost."""
        return self._open - len(self.running)

    def started_of(self, index: int) -> int | None:
        """When a running job started, Unix nanoseconds."""
        return self._started_at.get(index)

    def _settle(self, index: int, state: JobState, offset: int) -> None:
        if state not in TRANSITIONS[self.settled[index]]:
            raise TransitionError(f"job {index}: {JobState(self.settled[index]).name} to {state.name}")
        self.settled[index] = state
        self._open -= 1
        self._end_at[index] = offset + 1
        self.running.pop(index, None)

    def _show(self, jobs: list[tuple[int, JobEnd]], done: Done) -> None:
        for index, end in jobs:
            self.note_batch_start(end.started_at)  # a quick job's start is told by its end alone
            self.note_end(index, end.state, end.ended_at)
        for index, _ in jobs:
            self._tell(index)
        done(jobs)

    def _show_skipped(self, ranges: list[tuple[int, int]], end: JobEnd, done: Skipped) -> None:
        for begin, stop in ranges:
            self._shown[begin:stop] = bytes((end.state,)) * (stop - begin)
        count = sum(stop - begin for begin, stop in ranges)
        self._count(JobState.QUEUED, -count)
        self._count(end.state, count)
        self._final += count
        if end.ended_at is not None:
            self.ended_at = max(end.ended_at, self.ended_at or 0)
        for watcher in tuple(self._watchers):
            for begin, stop in ranges:
                watcher.changed_many(begin, stop)
        done(ranges, end)

    def _tell(self, index: int) -> None:
        for watcher in tuple(self._watchers):
            watcher.changed(index)

    # -- shared with recovery: the record becomes the picture

    def note_start(self, index: int, at: int) -> None:
        """A job runs, as its line says."""
        self.settled[index] = JobState.RUNNING
        self._change(index, JobState.RUNNING)
        self._started_at[index] = at
        self.note_batch_start(at)

    def note_end(self, index: int, state: JobState, at: int | None) -> None:
        """A job is final, for all to see."""
        self._change(index, state)
        self._started_at.pop(index, None)
        if at is not None:
            self.ended_at = at if self.ended_at is None else max(at, self.ended_at)

    def recover_end(self, index: int, state: JobState, at: int | None, offset: int) -> None:
        """A job's end, read back."""
        if self.settled[index] > _RUNNING:
            return
        self._settle(index, state, offset)
        self.note_end(index, state, at)

    def note_batch_start(self, at: int | None) -> None:
        """The batch started when the first of its jobs did."""
        if at is not None:
            self.started_at = at if self.started_at is None else min(at, self.started_at)

    def _change(self, index: int, state: JobState) -> None:
        counts, was = self._counts, self._shown[index]
        self._shown[index] = state
        if counts[was] == 1:
            del counts[was]
        else:
            counts[was] -= 1
        counts[state] = counts.get(state, 0) + 1
        self._final += state > _RUNNING

    def _count(self, state: JobState, more: int) -> None:
        count = self._counts.pop(state, 0) + more
        if count:
            self._counts[state] = count

    # -- the batch's own end

    @property
    def settling(self) -> bool:
        """Jobs have ended, and their ends are not durable yet; or are just being cancelled."""
        return self.cancels > 0 or self.settled != self._shown

    @property
    def complete(self) -> bool:
        """Every job is final and shown."""
        return self._final == self.job_count

    def finish(self, folder: str) -> None:
        """Writes the closing line and moves the batch to where finished ones lie; tells the watchers.

        The closing line need not be durable: it follows from the others, which are.
        """
        self.journal.append(results.final_line(self.counts(), self.started_at, self.ended_at))
        self.journal.close()
        move(self.folder, folder)
        self.folder = folder
        self.reader.moved(folder)
        self.reader.close()
        watchers, self._watchers = self._watchers, set()
        for watcher in watchers:
            watcher.finished()

    def close(self) -> None:
        """Gives descriptors back, the batch unfinished."""
        self.journal.close()
        self.reader.close()


def _both(one: bytearray, other: bytes | bytearray | None) -> bytearray:
    """1 where both have a 1; None has them everywhere. At once, and quickly, for a million."""
    if other is None:
        return one
    both = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return bytearray(both.to_bytes(len(one), "little"))
