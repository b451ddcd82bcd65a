"""What can happen to the jobs of an accepted batch. A record is durable, or it did not happen (store/commitlog.py).

Times are Unix nanoseconds, for display: nothing is decided by them.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobworker.server.model import EndReason, JobEnd, JobState


@dataclass(frozen=True, slots=True)
class Ordered:
    """Jobs are about to be sent to the executor of an epoch."""

    jobs: tuple[int, ...]
    epoch: str
    at: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A job that was ordered did not start: its order never arrived, or the executor gave it back. It is queued
    again."""

    job: int


@dataclass(frozen=True, slots=True)
class Started:
    """The executor started a job."""

    job: int
    at: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is final."""

    job: int
    end: JobEnd


@dataclass(frozen=True, slots=True)
class Skipped:
    """Jobs `begin` to `stop` - 1 are final and never ran."""

    begin: int
    stop: int
    reason: EndReason
    at: int
    state: JobState = JobState.SKIPPED


Record = Ordered | Returned | Started | Ended | Skipped
