"""Whatever happens to a batch, and wherever its record is cut off: from what is left, each of its jobs ends exactly
once and starts at most once, and nothing that the record said is taken back. Hypothesis makes the histories; the
executors are a model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from jobworker.server.core.batch import Batch
from jobworker.server.core.records import Ended, Ordered, Record, Returned, Skipped, Started
from jobworker.server.model import EndReason, JobEnd, JobState
from jobworker.server.store import results

ACTIONS = ("order", "start", "end", "fail", "return", "die", "die waiting", "cancel", "fast")


@dataclass
class History:
    """A batch, its record so far, and what really happened to its jobs."""

    batch: Batch
    records: list[Record] = field(default_factory=list)
    epoch: int = 1
    # What is true of a job after so many records: the executor has it, and it runs.
    sent_at: dict[int, list[int]] = field(default_factory=dict)

    def record(self, record: Record) -> None:
        if self.batch.apply(record):
            self.records.append(record)

    def step(self, action: str, choice: int) -> None:
        """Does what a scheduler would, if it can be done now."""
        batch = self.batch
        running = sorted(batch.running)
        if action == "order":
            self._order(1 + choice % 3)
        elif action == "cancel":
            self._skip(EndReason.CANCELLED, 1 + choice % 2)
        elif action == "fast" and batch.fails_fast:
            self._skip(EndReason.FAIL_FAST, None)
        elif action in ("die", "die waiting"):
            for job in running:
                if action == "die waiting" and job not in batch.started and (job + choice) % 2:
                    self.sent_at[job].pop()  # the executor is known not to have started it
                    self.record(Returned(job))
                    continue
                self.record(Ended(job, JobEnd(JobState.LOST, EndReason.EXECUTOR_LOST, ended_at=9)))
            self.epoch += 1
        elif running:
            self._with_job(action, running[choice % len(running)])

    def _order(self, most: int) -> None:
        jobs = self.batch.next_jobs(most)
        if jobs:
            self.record(Ordered(jobs, f"e{self.epoch}", 1))
        for job in jobs:  # sent when the record is durable
            self.sent_at.setdefault(job, []).append(len(self.records))

    def _skip(self, reason: EndReason, ranges: int | None) -> None:
        for begin, stop in list(self.batch.queued_ranges(None))[:ranges]:
            self.record(Skipped(begin, stop, reason, 4))

    def _with_job(self, action: str, job: int) -> None:
        if action == "start":
            self.record(Started(job, 2 + job))
        elif action == "return" and job not in self.batch.started:
            self.sent_at[job].pop()  # it never arrived
            self.record(Returned(job))
        elif action in ("end", "fail"):
            code = int(action == "fail")
            state = JobState.FAILED if code else JobState.SUCCEEDED
            end = JobEnd(state, EndReason.EXITED, exit_code=code, waited=True, started_at=2, ended_at=5, log_bytes=(0,))
            self.record(Ended(job, end))


histories = st.tuples(
    st.integers(1, 12),
    st.integers(1, 4),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), max_size=40),
)


Made = tuple[int, int, bool, list[tuple[str, int]]]


def play(jobs: int, parallelism: int, fail_fast: bool, actions: list[tuple[str, int]]) -> History:
    history = History(Batch(job_count=jobs, parallelism=parallelism, fail_fast=fail_fast))
    for action, choice in actions:
        history.step(action, choice)
    return history


def read_back(like: Batch, records: list[Record]) -> tuple[Batch, int]:
    """The state from the lines of the records, as recovery makes it; and how many of them said something new."""
    batch = Batch(job_count=like.job_count, parallelism=like.parallelism, fail_fast=like.fail_fast)
    fresh = 0
    for line in b"".join(map(results.encode, records)).splitlines():
        record = results.decode(json.loads(line))
        assert record is not None
        fresh += batch.apply(record)
    return batch, fresh


def same(one: Batch, other: Batch) -> bool:
    fields = ("states", "counts", "running", "started", "started_at", "ended_at")
    return all(getattr(one, name) == getattr(other, name) for name in fields) and (
        sorted(one.next_jobs(99)) == sorted(other.next_jobs(99))
    )


@settings(max_examples=400, deadline=None, derandomize=True)
@given(histories)
def test_every_prefix_of_a_record_leads_to_one_end_of_each_job(
    made: Made,
) -> None:
    history = play(*made)
    live = Batch(job_count=made[0], parallelism=made[1], fail_fast=made[2])
    for cut in range(len(history.records) + 1):
        if cut:
            assert live.apply(history.records[cut - 1])
        found, fresh = read_back(live, history.records[:cut])
        assert fresh == cut
        assert same(found, live), "the same reducer, the same state"
        for job, times in history.sent_at.items():
            if any(at <= cut for at in times):
                assert found.states[job] != JobState.QUEUED or job in found.running, "sent, and would be again"
        finish(found, Counter(job for job, times in history.sent_at.items() for at in times if at <= cut))


def finish(batch: Batch, started: Counter[int]) -> None:
    """The executors of before are gone; a new one runs what is left. Nothing that was final changes."""
    final = {job: state for job, state in enumerate(batch.states) if JobState(state).final}
    for job in list(batch.running):
        assert batch.apply(Ended(job, JobEnd(JobState.LOST, EndReason.EXECUTOR_LOST, ended_at=9)))
    while not batch.complete:
        if batch.fails_fast:
            for begin, stop in list(batch.queued_ranges(None)):
                assert batch.apply(Skipped(begin, stop, EndReason.FAIL_FAST, 9))
            continue
        jobs = batch.next_jobs(batch.job_count)
        assert jobs, "what is not final can be started"
        assert batch.apply(Ordered(jobs, "new", 9))
        for job in jobs:
            started[job] += 1
            end = JobEnd(JobState.SUCCEEDED, EndReason.EXITED, exit_code=0, waited=True, started_at=9, ended_at=10)
            assert batch.apply(Ended(job, end))
    assert not started or max(started.values()) == 1
    assert all(batch.states[job] == state for job, state in final.items())
    assert sum(batch.counts) == batch.job_count
    assert not batch.running


@settings(max_examples=200, deadline=None, derandomize=True)
@given(histories)
def test_a_copy_is_the_same_and_goes_its_own_way(made: Made) -> None:
    history = play(*made)
    copy = history.batch.copy()
    assert same(copy, history.batch)
    before = (bytes(history.batch.states), dict(history.batch.running))
    finish(copy, Counter())
    assert (bytes(history.batch.states), dict(history.batch.running)) == before
