"""Batches and jobs, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.ctl.listing import Field, styled
from jobworker.ctl.output import batch_state, counts_in_words, done_count, elapsed, failed_count, format_bytes, moment
from jobworker.ctl.tables import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.timestamp_pb2 import Timestamp

    from jobworker.ctl.tables import Cell
    from jobworker.v1.job_pb2 import Batch, Job
    from jobworker.v1.query_pb2 import SearchJobResponse


def batch_fields(now: Callable[[], float]) -> list[Field[Batch]]:
    """The columns of a list of batches. `now` gives the service's time, in seconds since 1970."""
    return [
        Field(Column("ID"), lambda batch: batch.correlation_id),
        Field(Column("STATE"), lambda batch: styled(batch_state(batch))),
        Field(Column("DONE", right=True), lambda batch: f"{done_count(batch)}/{batch.job_count}"),
        Field(Column("FAILED", right=True), lambda batch: str(failed_count(batch) or "")),
        Field(Column("USER", expendable=1), lambda batch: batch.user),
        Field(Column("ACCEPTED", expendable=2), lambda batch: moment(batch.accepted_at)),
        Field(Column("STARTED"), lambda batch: _time(batch.started_at), wide=True),
        Field(Column("ENDED"), lambda batch: _time(batch.ended_at), wide=True),
        Field(Column("ELAPSED", right=True), lambda batch: elapsed(batch, now())),
        Field(Column("LABELS"), _labels, wide=True),
        Field(Column("NAME", shrinks=True), lambda batch: batch.name),
    ]


def job_fields(now: Callable[[], float]) -> list[Field[SearchJobResponse]]:
    """The columns of a list of jobs. `now` gives the service's time, in seconds since 1970."""
    return [
        Field(Column("JOB", right=True), lambda found: str(found.job.index)),
        Field(Column("NAME"), lambda found: found.job.name, wide=True),
        Field(Column("RESULT"), lambda found: styled(found.result)),
        Field(Column("STARTED"), lambda found: _time(found.job.started_at), wide=True),
        Field(Column("ENDED"), lambda found: _time(found.job.ended_at), wide=True),
        Field(Column("ELAPSED", right=True), lambda found: elapsed(found.job, now())),
        Field(Column("LOG", right=True), lambda found: _log(found.job)),
        Field(Column("COMMAND", shrinks=True), lambda found: _command(found.job)),
    ]


def batch_facts(batch: Batch, now: float) -> Iterator[tuple[str, Cell]]:
    """A batch as names and values."""
    yield "batch", batch.correlation_id
    yield "name", batch.name
    yield "labels", _labels(batch)
    yield "user", batch.user
    yield "state", styled(batch_state(batch))
    yield "jobs", counts_in_words(batch)
    yield "accepted", _time(batch.accepted_at)
    yield "started", _time(batch.started_at)
    yield "ended", _time(batch.ended_at)
    yield "elapsed", elapsed(batch, now)


def _time(stamp: Timestamp) -> str:
    """Empty where it was never set: in proto3, all zeros."""
    return moment(stamp) if stamp.seconds else ""


def _labels(batch: Batch) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(batch.labels.items()))


def _command(job: Job) -> str:
    command = " ".join((job.command or " ".join(job.argv)).split())
    return f"{job.name}: {command}" if job.name else command


def _log(job: Job) -> str:
    """The size of its logs; ` (9.9G dropped)` behind it, where some of it is gone, or never was in it."""
    size = format_bytes(sum(log.bytes for log in job.logs))
    dropped = sum(log.dropped_head_bytes + log.dropped_tail_bytes for log in job.logs)
    return f"{size} ({format_bytes(dropped)} dropped)" if dropped else size
