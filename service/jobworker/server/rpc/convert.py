"""Between the messages of the interface and the model: shapes and units alone, no decisions. What a request means for
the service is validated by those who act on it; here only what cannot be said in the model is refused."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from jobworker.server.errors import invalid
from jobworker.server.model import (
    BatchOptions,
    JobSpec,
    JobState,
    Limits,
    LogPolicy,
    LogStream,
    OutputMode,
    Usage,
)
from jobworker.server.scheduling.validate import MAX_LABELS, MAX_STRINGS
from jobworker.server.store.logsize import log_size
from jobworker.v1 import job_pb2, schedule_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from enum import IntEnum

    from google.protobuf.duration_pb2 import Duration

    from jobworker.server.model import BatchView, JobEnd, JobView

# google.protobuf.Duration, duration.proto: about 10,000 years.
_MAX_DURATION_SECONDS = 315_576_000_000

_MAX_STATES = 100

_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # google/protobuf/timestamp.proto
E = TypeVar("E", bound="IntEnum")


def seconds(duration: Duration, field: str) -> float:
    """A duration that is not negative, in seconds.

    Raises:
        InvalidRequestError: it is negative, or no duration.
    """
    if duration.seconds < 0 or duration.nanos < 0:
        raise invalid(field, "is negative")
    if duration.seconds > _MAX_DURATION_SECONDS or duration.nanos > 999_999_999:
        raise invalid(field, "is not a duration: at most 10,000 years, and nanos below 1e9")
    return duration.seconds + duration.nanos / 1e9


def unix_ns(stamp: Timestamp, field: str) -> int:
    """A time in nanoseconds since 1970.

    Raises:
        InvalidRequestError: it is not one of google.protobuf.Timestamp: years 1 to 9999, and nanos from 0 below 1e9.
    """
    if not _FIRST_SECOND <= stamp.seconds <= _LAST_SECOND or not 0 <= stamp.nanos <= 999_999_999:
        raise invalid(field, "is not a time: from year 1 to 9999, and nanos from 0 below 1e9")
    return stamp.seconds * 1_000_000_000 + stamp.nanos


def states(numbers: Sequence[int], kind: type[E], field: str = "state") -> frozenset[E]:
    """The states of a filter.

    Raises:
        InvalidRequestError: one is none, or there are far more than there can be.
    """
    found = set()
    if len(numbers) > _MAX_STATES:
        raise invalid(field, f"has more than {_MAX_STATES} entries")
    for position, number in enumerate(numbers):
        try:
            found.add(kind(number))
        except ValueError:
            raise invalid(f"{field}[{position}]", f"{number} is not a state") from None
    return frozenset(found)


def stream(number: int, field: str) -> LogStream | None:
    """A log's stream; unspecified is None.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        return LogStream(number) if number else None
    except ValueError:
        raise invalid(field, f"{number} is not a stream") from None


def job_spec(request: schedule_pb2.JobRequest, path: str) -> JobSpec:
    """A job as asked for; `path` is what its field paths begin with, such as `jobs[17].`.

    Raises:
        InvalidRequestError: something of it cannot be said in the model.
    """
    argv, env = request.argv, request.env
    if len(argv) + len(env) > MAX_STRINGS:  # before they are copied: a message has room for two million empty ones
        raise invalid(f"{path}{'argv' if argv else 'env'}", f"has more than {MAX_STRINGS} entries, with env")
    try:
        output = OutputMode(request.output or OutputMode.MERGED)
    except ValueError:
        raise invalid(f"{path}output", f"{request.output} is not an output mode") from None
    try:
        policy = LogPolicy(request.log_policy) if request.log_policy else None
    except ValueError:
        raise invalid(f"{path}log_policy", f"{request.log_policy} is not a log policy") from None
    return JobSpec(
        command=request.command,
        argv=tuple(argv),
        env=dict(env),
        cwd=request.cwd,
        stdin=request.stdin,
        timeout_seconds=seconds(request.timeout, f"{path}timeout") if request.HasField("timeout") else None,
        limits=_limits(request.limits, path) if request.HasField("limits") else Limits(),
        output=output,
        name=request.name,
        log_policy=policy,
    )


def batch_options(options: job_pb2.BatchOptions) -> BatchOptions:
    """What a client says of its batch."""
    return BatchOptions(
        name=options.name,
        parallelism=options.parallelism or None,
        fail_fast=options.fail_fast,
        labels=dict(islice(options.labels.items(), MAX_LABELS + 1)),  # one too many is refused, like any more
    )


def timestamp(ns: int) -> Timestamp:
    """A time in Unix nanoseconds."""
    return Timestamp(seconds=ns // 1_000_000_000, nanos=ns % 1_000_000_000)


def batch(view: BatchView) -> job_pb2.Batch:
    """A batch in counts."""
    header = view.header
    counts = view.counts()
    message = job_pb2.Batch(
        correlation_id=header.correlation_id,
        user=header.user,
        name=header.name,
        labels=header.labels,
        state=job_pb2.BatchState.ValueType(view.state),
        job_count=view.job_count,
        counts=job_pb2.JobCounts(**{state.name.lower(): counts.get(state, 0) for state in JobState}),
        parallelism=header.parallelism,
        fail_fast=header.fail_fast,
        accepted_at=timestamp(header.accepted_at),
    )
    ended_at = view.ended_at if view.state.final else None
    _put_times(message, _in_order(header.accepted_at, view.started_at, ended_at))
    return message


def job(view: BatchView, one: JobView) -> job_pb2.Job:
    """A job whole."""
    message = job_pb2.Job(
        index=one.index,
        name=one.spec.name,
        command=one.spec.command,
        argv=one.spec.argv,
        state=job_pb2.JobState.ValueType(one.state),
        logs=[_log_size(view, one, at, which) for at, which in enumerate(one.spec.output.streams)],
    )
    ended_at = None if one.end is None else one.end.ended_at
    _put_times(message, _in_order(view.header.accepted_at, one.started_at, ended_at))
    if one.end is not None:
        _put_end(message, one.end)
    return message


def words(one: JobView) -> str:
    """A job's state in words."""
    return one.state.name if one.end is None else one.end.words()


def _limits(limits: job_pb2.Limits, path: str) -> Limits:
    cpu = seconds(limits.cpu_time, f"{path}limits.cpu_time") if limits.HasField("cpu_time") else 0
    return Limits(
        memory_bytes=limits.memory_bytes or None,
        cpu_seconds=-int(-cpu // 1) or None,  # rounded up
        open_files=limits.open_files or None,
        processes=limits.processes or None,
        file_size_bytes=limits.file_size_bytes or None,
        log_bytes=limits.log_bytes or None,
    )


def _in_order(accepted_at: int, started_at: int | None, ended_at: int | None) -> tuple[int | None, int | None]:
    """Start and end of a batch or a job as they are shown: not before the batch was accepted, and the end not before
    the start. The record has what the clock of the day said, which may have been set back in between."""
    moved = 0 if started_at is None else max(0, accepted_at - started_at)  # together: the time between them is right
    start = None if started_at is None else started_at + moved
    end = None if ended_at is None else max(ended_at + moved, accepted_at if start is None else start)
    return start, end


def _put_times(message: job_pb2.Batch | job_pb2.Job, times: tuple[int | None, int | None]) -> None:
    started_at, ended_at = times
    if started_at is not None:
        message.started_at.CopyFrom(timestamp(started_at))
    if ended_at is not None:
        message.ended_at.CopyFrom(timestamp(ended_at))


def _put_end(message: job_pb2.Job, end: JobEnd) -> None:
    message.end_reason = job_pb2.EndReason.ValueType(end.reason)
    message.end_detail = end.detail
    if end.exit_code is not None:
        message.exit_code = end.exit_code
    elif end.signal is not None:
        message.signal = end.signal
    if end.waited:
        message.exit_source = job_pb2.EXIT_SOURCE_WAITED
    elif end.state is JobState.LOST:
        message.exit_source = job_pb2.EXIT_SOURCE_LOST
    if end.usage is not None:
        message.usage.CopyFrom(_usage(end.usage))


def _usage(usage: Usage) -> job_pb2.Usage:
    message = job_pb2.Usage(
        peak_memory_bytes=usage.peak_memory_bytes,
        read_bytes=usage.read_bytes,
        written_bytes=usage.written_bytes,
        voluntary_context_switches=usage.voluntary_switches,
        involuntary_context_switches=usage.involuntary_switches,
    )
    message.user_time.FromMicroseconds(usage.user_us)
    message.system_time.FromMicroseconds(usage.system_us)
    return message


def _log_size(view: BatchView, one: JobView, at: int, stream: LogStream) -> job_pb2.LogSize:
    message = job_pb2.LogSize(stream=job_pb2.LogStream.ValueType(stream))
    if one.end is None:
        message.bytes, message.dropped_head_bytes = log_size(view.log_path(one.index, stream))
    elif at < len(one.end.log_bytes):
        message.bytes = one.end.log_bytes[at]
        message.dropped_head_bytes, message.dropped_tail_bytes = one.end.dropped(stream)
    return message
