"""The state of one batch, as its records say: the one reducer, for the live service and for recovery alike.

`apply` alone changes the state. Everything else derives from it: what can be started, the counts, whether the batch
owes its jobs a fail-fast. Pure: no files, no clock, no asyncio.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from jobworker.server.core.records import Ended, Ordered, Record, Returned, Skipped, Started
from jobworker.server.model import TRANSITIONS, EndReason, JobEnd, JobState, TransitionError

# A batch whose jobs are quick has some ordered ahead of their turn: the executor holds them until a place is free, and
# starts the next without asking. As many as keep it busy for so long, so that the ends of many are told together.
AHEAD_NS = 25_000_000
AHEAD_JOBS = 64
_SHORTEST_NS = 1_000_000  # what a job takes at the least

# Plain numbers where each quick job passes: an enum's members are slow to look up and to compare.
_QUEUED, _RUNNING = int(JobState.QUEUED), int(JobState.RUNNING)
_STATES = max(JobState) + 1
_FAILED = tuple(int(state) for state in (JobState.FAILED, JobState.TIMED_OUT, JobState.LOST))
# By a job's state: 1 where it is queued, or not final; else 0.
_IF_QUEUED = bytes(state == _QUEUED for state in range(256))
_IF_OPEN = bytes(_QUEUED <= state <= _RUNNING for state in range(256))
_ONES = re.compile(rb"\x01+")  # in a mask, and, as QUEUED is 1, among the states


class Batch:
    """Jobs and their states, a byte each, and what of them is with an executor."""

    __slots__ = (
        "_again",
        "_ahead",
        "_next",
        "counts",
        "ended_at",
        "fail_fast",
        "job_count",
        "parallelism",
        "running",
        "started",
        "started_at",
        "states",
    )

    def __init__(self, *, job_count: int, parallelism: int, fail_fast: bool) -> None:
        self.job_count = job_count
        self.parallelism = parallelism
        self.fail_fast = fail_fast
        self.states = bytearray((_QUEUED,)) * job_count
        self.counts = [0] * _STATES  # jobs by state
        self.counts[_QUEUED] = job_count
        self.running: dict[int, str] = {}  # ordered and not ended: index -> epoch of the executor it was ordered from
        self.started: dict[int, int] = {}  # those of them that are known to have started, and when
        self.started_at: int | None = None  # the first of all
        self.ended_at: int | None = None  # the last
        self._next = 0  # no job below it was never ordered, but for those of `_again`
        self._again: deque[int] = deque()  # returned ones
        self._ahead = 0  # how many may be ordered ahead of their turn

    def copy(self) -> Batch:
        """Another one in the same state."""
        other = Batch.__new__(Batch)
        for name in ("job_count", "parallelism", "fail_fast", "started_at", "ended_at", "_next", "_ahead"):
            setattr(other, name, getattr(self, name))
        other.states = bytearray(self.states)
        other.counts = list(self.counts)
        other.running = dict(self.running)
        other.started = dict(self.started)
        other._again = deque(self._again)  # noqa: SLF001  (its own class)
        return other

    # -- the reducer

    def apply(self, record: Record) -> bool:
        """Takes a record in; False: it says nothing new.

        Raises:
            TransitionError: it cannot follow what is recorded; nothing was changed.
        """
        kind = type(record)
        if kind is Ended:
            return self._end(record.job, record.end)  # type: ignore[union-attr]
        if kind is Ordered:
            return self._order(record)  # type: ignore[arg-type]
        if kind is Started:
            return self._start(record.job, record.at)  # type: ignore[union-attr]
        if kind is Skipped:
            return self._skip(record)  # type: ignore[arg-type]
        return self._return(record)  # type: ignore[arg-type]

    def _order(self, record: Ordered) -> bool:
        fresh = False
        for job in record.jobs:
            if self.states[job] != _QUEUED:
                continue
            if self.running.get(job) != record.epoch:
                self.running[job] = record.epoch
                fresh = True
            if job >= self._next:
                self._next = job + 1
            elif self._again and self._again[0] == job:
                self._again.popleft()
            elif job in self._again:
                self._again.remove(job)
        self._pass_ended()
        return fresh

    def _return(self, record: Returned) -> bool:
        job = record.job
        if job not in self.running:
            return False
        if self.states[job] == _RUNNING:
            raise TransitionError(f"job {job} was started, and cannot be queued again")
        del self.running[job]
        self._again.append(job)
        return True

    def _start(self, job: int, at: int) -> bool:
        if self.states[job] != _QUEUED:
            return False
        self._change(job, _RUNNING)
        self.started[job] = at
        self._note_start(at)
        return True

    def _end(self, job: int, end: JobEnd) -> bool:
        was = self.states[job]
        if was > _RUNNING:
            return False
        if end.state not in TRANSITIONS[was]:
            raise TransitionError(f"job {job}: {JobState(was).name} to {end.state.name}")
        self._change(job, end.state)
        self.running.pop(job, None)
        self.started.pop(job, None)
        started_at, ended_at = end.started_at, end.ended_at
        if started_at is not None:
            self._note_start(started_at)  # a quick job's start is told by its end alone
        if ended_at is not None:
            self._note_end(ended_at)
            if started_at is not None and not self.fail_fast:
                took = max(ended_at - started_at, _SHORTEST_NS)
                self._ahead = min(AHEAD_JOBS, self.parallelism * AHEAD_NS // took)
        if job == self._next:
            self._pass_ended()
        return True

    def _skip(self, record: Skipped) -> bool:
        begin, stop = record.begin, record.stop
        queued = self.states.count(_QUEUED, begin, stop)
        if queued != stop - begin or any(begin <= job < stop for job in self.running):
            if not queued:
                return False
            raise TransitionError(f"jobs {begin} to {stop - 1} are to be skipped, and not all of them are queued")
        self.states[begin:stop] = bytes((record.state,)) * queued
        self.counts[_QUEUED] -= queued
        self.counts[record.state] += queued
        if self._again:
            self._again = deque(job for job in self._again if not begin <= job < stop)
        self._note_end(record.at)
        self._pass_ended()
        return True

    def _change(self, job: int, state: int) -> None:
        counts = self.counts
        counts[self.states[job]] -= 1
        counts[state] += 1
        self.states[job] = state

    def _note_start(self, at: int) -> None:
        if self.started_at is None or at < self.started_at:
            self.started_at = at

    def _note_end(self, at: int) -> None:
        if self.ended_at is None or at > self.ended_at:
            self.ended_at = at

    def _pass_ended(self) -> None:
        found = self.states.find(_QUEUED, self._next)
        self._next = found if found >= 0 else self.job_count

    # -- what follows from it

    @property
    def open_count(self) -> int:
        """Jobs that are not final."""
        return self.counts[_QUEUED] + self.counts[_RUNNING]

    @property
    def queued_count(self) -> int:
        """Jobs that are neither final nor with an executor."""
        return self.open_count - len(self.running)

    @property
    def complete(self) -> bool:
        """Every job is final."""
        return not self.open_count

    @property
    def has_failed(self) -> bool:
        """A job failed, timed out or was lost."""
        counts = self.counts
        return any(counts[state] for state in _FAILED)

    @property
    def fails_fast(self) -> bool:
        """A job failed in a batch that is to end then: nothing more starts, and what is not final is to be ended."""
        return self.fail_fast and self.has_failed

    def startable(self, *, ahead: bool) -> int:
        """How many jobs could be ordered now; with those ahead of their turn, or without."""
        places = self.parallelism + (self._ahead if ahead else 0) - len(self.running)
        if places <= 0 or self.fails_fast:
            return 0
        return min(places, self.queued_count)

    def next_jobs(self, most: int) -> tuple[int, ...]:
        """The jobs to order next, at most so many, and no more than are startable."""
        most = min(most, self.startable(ahead=True))
        jobs: list[int] = []
        for job in self._again:
            if len(jobs) == most:
                return tuple(jobs)
            jobs.append(job)
        at = self._next
        while len(jobs) < most:
            at = self.states.find(_QUEUED, at)
            if at < 0:
                break
            if at not in self.running:
                jobs.append(at)
            at += 1
        return tuple(jobs)

    def queued_ranges(self, wanted: bytes | bytearray | None) -> Iterator[tuple[int, int]]:
        """Jobs that are neither final nor with an executor; of the wanted ones, a byte of 1 a job, or (None) all."""
        queued = bytearray(self.states.translate(_IF_QUEUED))
        for job in self.running:
            queued[job] = 0
        return (run.span() for run in _ONES.finditer(bytes(_both(queued, wanted))))

    def still_queued(self, begin: int, stop: int) -> list[tuple[int, int]]:
        """The parts of a range that are neither final nor with an executor."""
        found = []
        for run in _ONES.finditer(self.states, begin, stop):
            at, end = run.span()
            for job in sorted(job for job in self.running if at <= job < end):
                if at < job:
                    found.append((at, job))
                at = job + 1
            if at < end:
                found.append((at, end))
        return found

    def unfinished(self, wanted: bytes | bytearray | None) -> bytearray:
        """A byte of 1 for each wanted job that is not final."""
        return _both(self.states.translate(_IF_OPEN), wanted)


def skip_end(record: Skipped) -> JobEnd:
    """How each job of a skip ended; without log sizes."""
    return JobEnd(state=record.state, reason=EndReason(record.reason), ended_at=record.at)


def _both(one: bytearray, other: bytes | bytearray | None) -> bytearray:
    """1 where both have a 1; None has them everywhere. At once, and quickly, for a million."""
    if other is None:
        return one
    both = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return bytearray(both.to_bytes(len(one), "little"))
