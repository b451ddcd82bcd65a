"""A recorded history in which all went well, and ways to spoil it, each with the violation that it is then."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.history import ALL, Batch, Death, Died, Follow, History, JobState, Kind, Log, Shown, Submission
from tests.faults.jobs import JobSpec, Marks

TAG = "0123456789ab"
SUCCEEDED = JobState("SUCCEEDED", "EXITED", ("exit_code", 0))
LOST = JobState("LOST", "EXECUTOR_LOST")


def log_of(spec: JobSpec, state: JobState = SUCCEEDED, output: bytes | None = None) -> Log:
    """A log in two pieces, with its end."""
    data = spec.output() if output is None else output
    log = Log()
    for begin, piece in ((0, data[:7]), (7, data[7:])):
        if piece:
            log.take(begin, len(piece))
            log.pieces.append((begin, piece))
    log.total, log.end = len(data), state
    return log


def shown(at: float, state: JobState, index: int = 0, by: str = "SearchJob") -> Shown:
    """A call that took a tenth of a second."""
    return Shown(TAG, at, at + 0.1, by, index=index, job=state)


def counted(at: float, state: str, **counts: int) -> Shown:
    """The same of a batch."""
    return Shown(TAG, at, at + 0.1, "GetBatch", batch_state=state, counts=tuple(counts.items()))


def good_history() -> History:
    """Three jobs that ran well, two at a time; followed, and read back."""
    jobs = [JobSpec(TAG, index, lines=3, bulk=100, pause_ms=0, code=0) for index in range(3)]
    batch = Batch(TAG, jobs, parallelism=2, submitted_at=10.0)
    batch.submission, batch.correlation_id, batch.acknowledged_at, batch.final_at = (
        Submission.ACKNOWLEDGED,
        "id",
        11,
        20,
    )
    history = History(batches={TAG: batch})
    history.show(counted(12, "RUNNING", running=2, queued=1), counted(20, "SUCCEEDED", succeeded=3))
    history.show(*(shown(12, JobState("RUNNING"), index) for index in range(3)))
    history.show(*(shown(20, SUCCEEDED, index) for index in range(3)))
    for index in range(3):
        history.marks.started[TAG, index] = history.marks.ended[TAG, index] = 1
    history.readings[TAG] = {spec.index: log_of(spec) for spec in jobs}
    history.follows.append(Follow(TAG, 11, {spec.index: log_of(spec) for spec in jobs}, done=True))
    return history


def ends_as(history: History, state: JobState, *, index: int = 0) -> None:
    """One job of it ended otherwise, for all who saw it."""
    for at, one in enumerate(history.shown):
        if one.index == index and one.job is not None and one.job.final:
            history.shown[at] = shown(one.began, state, index)
    history.readings[TAG][index].end = state
    history.follows[0].logs[index].end = state
    history.shown = [one for one in history.shown if one.job is not None]


def is_killed(history: History, *, index: int = 0, after: int = 20) -> None:
    """The executor died with a job in the middle of its output."""
    ends_as(history, LOST, index=index)
    history.deaths.append(Died(Death.EXECUTOR, 15, 15.5, 16))
    history.marks.ended[TAG, index] = 0
    for logs in (history.readings[TAG], history.follows[0].logs):
        spec = history.batches[TAG].jobs[index]
        logs[index] = log_of(spec, LOST, spec.output()[:after])


def never_started(history: History, *indexes: int) -> None:
    """LOST jobs that left no mark."""
    for index in indexes:
        ends_as(history, LOST, index=index)
        history.marks.started[TAG, index] = history.marks.ended[TAG, index] = 0
        for logs in (history.readings[TAG], history.follows[0].logs):
            logs[index] = log_of(history.batches[TAG].jobs[index], LOST, b"")


def with_bytes(log: Log, data: bytes) -> None:
    """Its last piece is another."""
    offset, _ = log.pieces[-1]
    log.pieces[-1] = (offset, data)


def gone(history: History) -> None:
    history.show(Shown(TAG, 30, 31, "GetBatch", gone=True))


def refused_and_ran(history: History) -> None:
    history.batches[TAG].submission = Submission.REFUSED
    history.shown.clear()


def unanswered_and_ran(history: History) -> None:
    history.batches[TAG].submission = Submission.UNKNOWN
    history.shown.clear()


def cut_and_listed(history: History) -> None:
    history.batches[TAG].submission = Submission.CUT
    history.marks = Marks.none()
    history.shown = [Shown(TAG, 30, 31, "ListBatches", batch_state="listed")]


def started_twice(history: History) -> None:
    history.marks.started[TAG, 1] = 2


def other_final_state(history: History) -> None:
    history.show(shown(30, LOST))


def back_to_running(history: History) -> None:
    history.show(shown(30, JobState("RUNNING")))


def back_to_running_after_more_answers(history: History) -> None:
    history.show(Shown(TAG, 19.9, 21.0, "SearchJob", index=0, job=JobState("RUNNING")), shown(30, JobState("RUNNING")))


def fewer_succeeded(history: History) -> None:
    history.show(counted(30, "RUNNING", succeeded=2, running=1))


def log_ends_with_another_state(history: History) -> None:
    for logs in (history.readings[TAG], history.follows[0].logs):
        logs[0].end = LOST


def not_final(history: History) -> None:
    history.shown = [one for one in history.shown if one.index != 2 or not (one.job and one.job.final)]


def succeeded_before_its_end(history: History) -> None:
    history.marks.ended[TAG, 0] = 0


def other_exit_code(history: History) -> None:
    ends_as(history, JobState("FAILED", "EXITED", ("exit_code", 1)))


def failed_with_exit_code_0(history: History) -> None:
    ends_as(history, JobState("FAILED", "EXITED", ("exit_code", 0)))


def not_spawned(history: History) -> None:
    never_started(history, 0)
    ends_as(history, JobState("FAILED", "SPAWN_FAILED"))


def cancelled_by_nobody(history: History) -> None:
    ends_as(history, JobState("CANCELLED", "CANCELLED", ("signal", 15)))


def skipped_and_ran(history: History) -> None:
    history.batches[TAG].cancelled = {ALL}
    ends_as(history, JobState("SKIPPED", "CANCELLED"))


def interrupted_by_nobody(history: History) -> None:
    ends_as(history, JobState("FAILED", "INTERRUPTED", ("signal", 15)))


def disk_full_of_room(history: History) -> None:
    ends_as(history, JobState("FAILED", "DISK_FULL", ("signal", 9)))


def lost_without_a_death(history: History) -> None:
    is_killed(history)
    history.deaths.clear()


def lost_by_a_death_after_its_end(history: History) -> None:
    is_killed(history)
    history.deaths = [Died(Death.EXECUTOR, 25, 25.5, 26)]


def lost_though_it_never_ran(history: History) -> None:
    history.deaths.append(Died(Death.EXECUTOR, 15, 15.5, 16))
    never_started(history, 0, 1, 2)  # two at a time


def log_too_short(history: History) -> None:
    log = log_of(history.batches[TAG].jobs[0], output=history.batches[TAG].jobs[0].output()[:-1])
    history.readings[TAG][0] = history.follows[0].logs[0] = log


def log_with_other_bytes(history: History) -> None:
    log = history.readings[TAG][0]
    with_bytes(log, log.pieces[-1][1].swapcase())
    history.follows[0].logs[0] = log_of(history.batches[TAG].jobs[0])


def log_with_a_byte_more(history: History) -> None:
    history.readings[TAG][0] = log_of(history.batches[TAG].jobs[0], output=history.batches[TAG].jobs[0].output() + b"x")


def log_of_a_lost_job_is_no_prefix(history: History) -> None:
    is_killed(history)
    spec = history.batches[TAG].jobs[0]
    history.readings[TAG][0] = history.follows[0].logs[0] = log_of(spec, LOST, spec.output()[1:20])


def log_without_an_end(history: History) -> None:
    history.readings[TAG][0].total = None


def log_with_a_hole(history: History) -> None:
    log = Log()
    log.take(0, 3)
    log.take(5, 3)
    log.total = 8
    history.readings[TAG][0] = log


def log_total_is_another(history: History) -> None:
    history.readings[TAG][0].total = 1 << 20


def nul_bytes(history: History) -> None:
    history.deaths.append(Died(Death.MACHINE, 25, 25.5, 26))
    log = history.readings[TAG][0]
    with_bytes(log, bytes(len(log.pieces[-1][1])))


def follower_got_nul_bytes(history: History) -> None:
    history.deaths.append(Died(Death.MACHINE, 25, 25.5, 26))
    log = history.follows[0].logs[0]
    with_bytes(log, bytes(len(log.pieces[-1][1])))


def follower_got_other_bytes(history: History) -> None:
    log = history.follows[0].logs[0]
    with_bytes(log, log.pieces[-1][1][::-1])


def follower_got_less(history: History) -> None:
    spec = history.batches[TAG].jobs[0]
    history.follows[0].logs[0] = log_of(spec, output=spec.output()[:-5])


def follower_got_a_piece_twice(history: History) -> None:
    log = Log()
    log.take(0, 10)
    log.take(5, 10)
    history.follows[0].logs[0] = log


def follower_was_told_another_end(history: History) -> None:
    history.follows[0].logs[0].end = LOST


def stream_ended_early(history: History) -> None:
    history.follows[0].ended_early = "the stream ended well, and not every log had its end"


def stream_hung(history: History) -> None:
    history.follows[0].done, history.follows[0].hung = False, True


def lost_after_the_executor_was_gone(history: History) -> None:
    history.deaths.append(Died(Death.EXECUTOR, 5, 6, 16))
    never_started(history, 0)


SPOILED: list[tuple[Callable[[History], None], Kind]] = [
    (gone, Kind.LOST_BATCH),
    (refused_and_ran, Kind.RAN_UNACKNOWLEDGED),
    (unanswered_and_ran, Kind.RAN_UNACKNOWLEDGED),
    (cut_and_listed, Kind.RAN_UNACKNOWLEDGED),
    (started_twice, Kind.STARTED_TWICE),
    (other_final_state, Kind.TAKEN_BACK),
    (back_to_running, Kind.TAKEN_BACK),
    (back_to_running_after_more_answers, Kind.TAKEN_BACK),
    (fewer_succeeded, Kind.TAKEN_BACK),
    (log_ends_with_another_state, Kind.TAKEN_BACK),
    (not_final, Kind.NEVER_FINAL),
    (succeeded_before_its_end, Kind.WRONG_STATE),
    (other_exit_code, Kind.WRONG_STATE),
    (failed_with_exit_code_0, Kind.WRONG_STATE),
    (not_spawned, Kind.WRONG_STATE),
    (cancelled_by_nobody, Kind.WRONG_STATE),
    (skipped_and_ran, Kind.WRONG_STATE),
    (interrupted_by_nobody, Kind.WRONG_STATE),
    (disk_full_of_room, Kind.WRONG_STATE),
    (lost_without_a_death, Kind.LOST_WITHOUT_DEATH),
    (lost_by_a_death_after_its_end, Kind.LOST_WITHOUT_DEATH),
    (lost_though_it_never_ran, Kind.LOST_UNSTARTED),
    (log_too_short, Kind.WRONG_LOG),
    (log_with_other_bytes, Kind.WRONG_LOG),
    (log_with_a_byte_more, Kind.WRONG_LOG),
    (log_of_a_lost_job_is_no_prefix, Kind.WRONG_LOG),
    (log_without_an_end, Kind.WRONG_LOG),
    (log_with_a_hole, Kind.WRONG_LOG),
    (log_total_is_another, Kind.WRONG_LOG),
    (nul_bytes, Kind.NUL_BYTES),
    (follower_got_nul_bytes, Kind.NUL_BYTES),
    (follower_got_other_bytes, Kind.FOLLOWER_DIFFERS),
    (follower_got_less, Kind.FOLLOWER_DIFFERS),
    (follower_got_a_piece_twice, Kind.FOLLOWER_DIFFERS),
    (follower_was_told_another_end, Kind.FOLLOWER_DIFFERS),
    (stream_ended_early, Kind.FOLLOWER_CUT_SHORT),
    (stream_hung, Kind.FOLLOWER_HUNG),
    (lost_after_the_executor_was_gone, Kind.LOST_UNSTARTED),
]
