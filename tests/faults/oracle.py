"""Judges a history by what the service promises. Pure: it knows what clients saw and what jobs left, and nothing of the
service's insides.

Where a promise leaves room, the oracle is as strict as what is known allows:
- a submission that got no answer may be accepted or not, but whole, and then it is held to all promises;
- after a death, so many jobs of a batch as it had running at a time may be LOST. Of these, one that left no mark may
  have started all the same, and died before its first line: it is counted as undecided. More are LOST without ever
  having been started;
- where the server died as well, nobody knows which jobs the executor had not started: those that were ordered ahead of
  their turn may be LOST too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.faults.history import Batch, Death, Follow, History, JobState, Kind, Log, Shown, Submission, Violation

_FINAL_COUNTS = ("succeeded", "failed", "cancelled", "timed_out", "lost", "skipped")
_AHEAD_JOBS = 64  # at most so many are ordered ahead; once the machine died nobody tells them apart (CONTRIBUTING.md)
_OPEN_BATCH = ("QUEUED", "RUNNING")


def judge(history: History, tags: Iterable[str] | None = None) -> list[Violation]:
    """All violations of these batches, or of all. The service is at rest, and everything was read."""
    shown: dict[str, list[Shown]] = defaultdict(list)
    for one in sorted(history.shown, key=lambda s: s.ended):
        shown[one.tag].append(one)
    found: list[Violation] = []
    for tag in list(history.batches) if tags is None else tags:
        batch = history.batches[tag]
        found += _judge_starts(history, batch)
        found += _judge_shown(batch, shown[tag])
        if batch.expected:
            states = final_states(shown[tag])
            found += _judge_states(history, batch, states)
            found += _judge_lost(history, batch, states)
            found += _judge_logs(history, batch, states)
    wanted = None if tags is None else set(tags)
    for follow in history.follows:
        if wanted is None or follow.tag in wanted:
            found += _judge_follow(history, follow)
    return found


def final_states(shown: Iterable[Shown]) -> dict[int, JobState]:
    """The final state of each job that was shown with one; the first, where they differ."""
    states: dict[int, JobState] = {}
    for one in shown:
        if one.job is not None and one.job.final:
            states.setdefault(one.index, one.job)
    return states


def _judge_starts(history: History, batch: Batch) -> Iterator[Violation]:
    ran = history.marks.any_of(batch.tag)
    if not batch.expected:
        for index in ran:
            yield Violation(Kind.RAN_UNACKNOWLEDGED, batch.tag, index, f"its submission: {batch.submission.value}")
    for index in ran:
        times = max(history.marks.started[batch.tag, index], history.marks.ended[batch.tag, index])
        if times > 1:
            yield Violation(Kind.STARTED_TWICE, batch.tag, index, f"it started {times} times")


def _judge_shown(batch: Batch, shown: list[Shown]) -> Iterator[Violation]:
    """Nothing final is taken back; two calls that were under way at the same time are in no order."""
    for one in shown:
        if one.gone and batch.expected and one.began > batch.acknowledged_at:
            yield Violation(Kind.LOST_BATCH, batch.tag, detail=f"{one.by}: no batch {batch.correlation_id}")
        if not one.gone and batch.submission in (Submission.REFUSED, Submission.CUT):
            yield Violation(Kind.RAN_UNACKNOWLEDGED, batch.tag, detail="the service has a batch that it refused")
    finals: dict[int, Shown] = {}
    for one in shown:
        if one.job is None:
            continue
        before = finals.get(one.index)
        if one.job.final and before is None:
            finals[one.index] = one
        elif before is not None and one.job != before.job and (one.job.final or one.began > before.ended):
            was = f"{before.job} by {before.by}, then {one.job} by {one.by}"
            yield Violation(Kind.TAKEN_BACK, batch.tag, one.index, was)
    yield from _judge_counts(batch, [one for one in shown if one.counts])


def _judge_counts(batch: Batch, shown: list[Shown]) -> Iterator[Violation]:
    """Counts of final jobs only grow, and a final batch stays as it is. `shown` is in the order of the answers."""
    most: dict[str, Shown] = {}
    final: Shown | None = None
    for one in shown:
        counts = dict(one.counts)
        for name in _FINAL_COUNTS:
            before = most.get(name)
            has = counts.get(name, 0)
            if before is not None and one.began > before.ended and has < dict(before.counts).get(name, 0):
                was = f"{name} was {dict(before.counts)[name]}, then {has}, by {one.by}"
                yield Violation(Kind.TAKEN_BACK, batch.tag, detail=was)
            if before is None or has >= dict(before.counts).get(name, 0):
                most[name] = one
        if final is not None and one.began > final.ended and one.batch_state != final.batch_state:
            was = f"the batch was {final.batch_state}, then {one.batch_state}"
            yield Violation(Kind.TAKEN_BACK, batch.tag, detail=was)
        if final is None and one.batch_state not in _OPEN_BATCH:
            final = one


def _judge_states(history: History, batch: Batch, states: dict[int, JobState]) -> Iterator[Violation]:
    for spec in batch.jobs:
        state = states.get(spec.index)
        if state is None:
            yield Violation(Kind.NEVER_FINAL, batch.tag, spec.index)
            continue
        started = history.marks.started[batch.tag, spec.index] > 0
        reached_end = history.marks.ended[batch.tag, spec.index] > 0
        if problem := _contradiction(history, batch, spec.index, state, started=started, reached_end=reached_end):
            yield Violation(Kind.WRONG_STATE, batch.tag, spec.index, f"{state}: {problem}")


def _contradiction(  # noqa: C901 - a case for each way to end
    history: History, batch: Batch, index: int, state: JobState, *, started: bool, reached_end: bool
) -> str:
    """What is wrong with a final state; empty where nothing is. LOST has a judge of its own."""
    spec = batch.jobs[index]
    match state.state, state.reason:
        case ("SUCCEEDED", _) | ("FAILED", "EXITED" | "SIGNALLED"):
            if not reached_end:
                return "it did not reach its end"
            if state.outcome != spec.outcome:
                return f"it ended with {spec.outcome[0]} {spec.outcome[1]}"
            if (state.state == "SUCCEEDED") != (spec.outcome == ("exit_code", 0)):
                return "its state is another than its outcome's"
        case "CANCELLED", _:
            return "" if batch.may_be_cancelled(index) else "nobody cancelled it"
        case "SKIPPED", _:
            if not batch.may_be_cancelled(index):
                return "nobody cancelled it"
            return "it had started" if started or reached_end else ""
        case "FAILED", "INTERRUPTED":
            stopped = any(at >= batch.submitted_at for at in history.interruptions)
            return "" if stopped else "nobody stopped the executor"
        case "FAILED", "DISK_FULL":
            return "" if history.disk_was_full else "the disk was never full"
        case "LOST", _:
            return ""
        case _:
            return "nothing that the job did leads to it"
    return ""


def _judge_lost(history: History, batch: Batch, states: dict[int, JobState]) -> Iterator[Violation]:
    lost = [index for index, state in states.items() if state.state == "LOST"]
    deaths = history.deaths_of(batch)
    if not deaths:
        for index in lost:
            yield Violation(Kind.LOST_WITHOUT_DEATH, batch.tag, index, str(states[index]))
        return
    unmarked = [index for index in lost if not history.marks.started[batch.tag, index]]
    # A job that reached its end, which nobody was told of any more, had left its place to another.
    marks = history.marks
    cut_off = sum(marks.started[batch.tag, i] > 0 and not marks.ended[batch.tag, i] for i in lost)
    could_take = sum(
        batch.parallelism + _AHEAD_JOBS * (died.kind is Death.MACHINE)
        for died in deaths
        if died.gone >= batch.submitted_at
    )
    could_run = max(0, could_take - cut_off)
    history.undecided_lost |= {(batch.tag, index) for index in unmarked[:could_run]}
    for index in unmarked[could_run:]:
        said = (
            f"{len(lost)} LOST, {len(unmarked)} of them left no mark; {could_take} could have run when something died"
        )
        yield Violation(Kind.LOST_UNSTARTED, batch.tag, index, said)


def _judge_logs(history: History, batch: Batch, states: dict[int, JobState]) -> Iterator[Violation]:
    readings = history.readings.get(batch.tag)
    if readings is None:
        return
    crashed = history.machine_died_since(batch.submitted_at)
    for index, state in states.items():
        log = readings.get(index)
        if log is None or log.total is None:
            yield Violation(Kind.WRONG_LOG, batch.tag, index, "it has no end")
            continue
        if log.end is not None and log.end != state:
            yield Violation(Kind.TAKEN_BACK, batch.tag, index, f"{state}, and {log.end} at its log's end")
        found = _compare(batch, index, log, may_have_gaps=crashed)
        if not found and _is_whole(history, batch, index, state) and log.total != len(batch.jobs[index].output()):
            found = (Kind.WRONG_LOG, f"{log.total} bytes of {len(batch.jobs[index].output())}; {state}")
        if found:
            yield Violation(found[0], batch.tag, index, found[1])


def _is_whole(history: History, batch: Batch, index: int, state: JobState) -> bool:
    """Whether all that the job was to print must be in its log, as bytes or as gaps."""
    if state.state == "SUCCEEDED" or state.reason in ("EXITED", "SIGNALLED"):
        return True
    # It was ended after its last word was in the pipe.
    reached_end = history.marks.ended[batch.tag, index] > 0
    return reached_end and state.reason in ("CANCELLED", "INTERRUPTED") and not history.deaths_of(batch)


def _compare(batch: Batch, index: int, log: Log, *, may_have_gaps: bool) -> tuple[Kind, str] | None:
    """What is wrong with a log, each byte of which must be what the job printed at that place."""
    expected = batch.jobs[index].output()
    if log.faults:
        return Kind.WRONG_LOG, log.faults[0]
    if log.gaps and not may_have_gaps:
        return Kind.WRONG_LOG, f"a gap of {log.gaps[0][1]} bytes at {log.gaps[0][0]}"
    for offset, data in log.pieces:
        if expected[offset : offset + len(data)] != data:
            if b"\0" in data:
                return Kind.NUL_BYTES, f"{data.count(0)} of them from byte {offset + data.index(0)}"
            at = next(i for i, byte in enumerate(data) if expected[offset + i : offset + i + 1] != bytes((byte,)))
            return Kind.WRONG_LOG, f"from byte {offset + at}: {data[at : at + 40]!r}"
    if log.total is not None and log.total != log.offset:
        return Kind.WRONG_LOG, f"{log.total} bytes in its end, {log.offset} before it"
    if log.offset > len(expected):
        return Kind.WRONG_LOG, f"a gap to byte {log.offset}; the job prints {len(expected)}"
    return None


def _judge_follow(history: History, follow: Follow) -> Iterator[Violation]:
    """Each follower gets what the log is in the end; where the machine died, no other bytes than the job printed."""
    batch = history.batches[follow.tag]
    if follow.hung:
        missing = [index for index in range(len(batch.jobs)) if not _has_end(follow, index)]
        yield Violation(Kind.FOLLOWER_HUNG, batch.tag, detail=f"{len(missing)} of {len(batch.jobs)} logs had no end")
    if follow.ended_early:
        yield Violation(Kind.FOLLOWER_CUT_SHORT, batch.tag, detail=follow.ended_early)
    crashed = history.machine_died_since(batch.submitted_at)
    readings = history.readings.get(batch.tag, {})
    for index, log in follow.logs.items():
        found = _compare(batch, index, log, may_have_gaps=crashed)
        if found:
            kind = found[0] if found[0] is Kind.NUL_BYTES else Kind.FOLLOWER_DIFFERS
            yield Violation(kind, batch.tag, index, f"follower: {found[1]}")
            continue
        read = readings.get(index)
        if crashed or read is None:
            continue
        if log.total is not None and (log.data(), log.total, log.end) != (read.data(), read.total, read.end):
            said = f"follower: {log.total} bytes, {log.end}; the log: {read.total}, {read.end}"
            yield Violation(Kind.FOLLOWER_DIFFERS, batch.tag, index, said)


def _has_end(follow: Follow, index: int) -> bool:
    log = follow.logs.get(index)
    return log is not None and log.total is not None
