"""What a batch's and a call's spans are made from, taken down as it happens. Plain data: knows no SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobworker.server.ids import CorrelationId
    from jobworker.server.model import BatchHeader, BatchState, JobEnd, JobState
    from jobworker.server.telemetry.tracecontext import Remote


@dataclass(frozen=True, slots=True)
class Ends:
    """How a batch's jobs ended: how many in each state, and those whose spans are made. `written_at` is when the batch
    was whole in its file."""

    counts: Mapping[JobState, int]
    jobs: Sequence[tuple[int, JobEnd]]
    written_at: int


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A finished batch. Times are Unix nanoseconds; `durable_at` and `submitted_by` None where another server took it
    in."""

    header: BatchHeader
    job_count: int
    state: BatchState
    ended_at: int | None
    durable_at: int | None
    submitted_by: CallRecord | None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call that has begun. `remote` is the caller's span, where it told one; `trace_id` one of its own, where it
    turns out to have neither a caller's nor a batch."""

    method: str
    transport: str
    began_at: int
    trace_id: int
    span_id: int
    remote: Remote | None


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How it ended, and what it turned out to be about."""

    at: int
    code: str
    user: str | None
    batch: CorrelationId | None
