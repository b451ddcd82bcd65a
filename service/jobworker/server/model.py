"""What the service is about: batches, jobs, their states and ends. Pure: no files, no gRPC.

The numbers of the enums are those of `v1/job.proto` (a test holds the two together).
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from jobworker.server.ids import CorrelationId


class JobState(IntEnum):
    """Where a job is."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    TIMED_OUT = 6
    LOST = 7
    SKIPPED = 8

    @property
    def final(self) -> bool:
        """A final job never changes again."""
        return self > JobState.RUNNING


# The one transition table: RUNNING may be left out of the record when start and end are learnt at once.
TRANSITIONS: dict[int, frozenset[int]] = {
    JobState.QUEUED: frozenset(JobState) - {JobState.QUEUED},
    JobState.RUNNING: frozenset(s for s in JobState if s.final and s is not JobState.SKIPPED),
    **{s: frozenset() for s in JobState if s.final},
}


class TransitionError(Exception):
    """A state was to follow another that it cannot follow: a fault of the service."""


class EndReason(IntEnum):
    """Why a job is final."""

    EXITED = 1
    SIGNALLED = 2
    SPAWN_FAILED = 3
    TIMEOUT = 4
    CANCELLED = 5
    LOG_LIMIT = 6
    MEMORY = 7
    INTERRUPTED = 8
    EXECUTOR_LOST = 9
    MACHINE_LOST = 10
    FAIL_FAST = 11
    DISK_FULL = 12
    DAMAGED = 13
    PROCESSES = 14


class LogStream(IntEnum):
    """Which output of a job a log holds."""

    MERGED = 1
    STDOUT = 2
    STDERR = 3


class OutputMode(IntEnum):
    """How a job's two outputs are kept."""

    MERGED = 1
    SEPARATE = 2

    @property
    def streams(self) -> tuple[LogStream, ...]:
        """The logs that a job of this mode has."""
        return (LogStream.MERGED,) if self is OutputMode.MERGED else (LogStream.STDOUT, LogStream.STDERR)


class LogPolicy(IntEnum):
    """What becomes of output beyond the limit of a job's logs."""

    END = 1
    TRUNCATE_TAIL = 2
    TRUNCATE_HEAD = 3


class BatchState(IntEnum):
    """Where a batch is."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5

    @property
    def final(self) -> bool:
        """Every job is final."""
        return self > BatchState.RUNNING


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use; None is the service's default. Bytes and seconds."""

    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    open_files: int | None = None
    processes: int | None = None
    file_size_bytes: int | None = None
    log_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One command as asked for: `command` (for `sh -c`) or `argv`, never both."""

    command: str = ""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    stdin: bytes = b""
    timeout_seconds: float | None = None
    limits: Limits = Limits()
    output: OutputMode = OutputMode.MERGED
    name: str = ""
    log_policy: LogPolicy | None = None  # the service's default


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a client says of its batch as a whole; parallelism None is the service's default."""

    name: str = ""
    parallelism: int | None = None
    fail_fast: bool = False
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """A batch as accepted. Times are Unix nanoseconds."""

    correlation_id: CorrelationId
    user: str
    accepted_at: int
    name: str
    parallelism: int
    fail_fast: bool
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Usage:
    """What wait4(2) told; peak_memory_bytes None is unknown. Times in microseconds."""

    user_us: int
    system_us: int
    peak_memory_bytes: int | None
    read_bytes: int
    written_bytes: int
    voluntary_switches: int
    involuntary_switches: int


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a job. At most one of exit_code and signal; neither where none was seen (then `waited` is False,
    but for a job that was never started, which has no exit to see). Times are Unix nanoseconds.
    `log_bytes` has one entry for each stream of the job's output mode, in that order. So have `dropped_head`, how many
    of these bytes, the first, are gone (LogPolicy.TRUNCATE_HEAD), and `dropped_tail`, how many came after them and were
    thrown away; empty is all 0, and of a job whose end nobody saw `dropped_tail` is not known.

    The last three are told by the executor and not kept on disk: unknown (None, 0) where it did not say, or the end was
    read back. `lost_bytes` the disk would not take, `over_bytes` were dropped since they exceeded the limit.
    """

    state: JobState
    reason: EndReason
    detail: str = ""
    exit_code: int | None = None
    signal: int | None = None
    waited: bool = False
    started_at: int | None = None
    ended_at: int | None = None
    usage: Usage | None = None
    log_bytes: tuple[int, ...] = ()
    dropped_head: tuple[int, ...] = ()
    dropped_tail: tuple[int, ...] = ()
    spawn_us: int | None = field(default=None, compare=False)
    lost_bytes: int = field(default=0, compare=False)
    over_bytes: int = field(default=0, compare=False)

    @property
    def stored_log_bytes(self) -> int:
        """What its logs take on the disk: their lengths without what was dropped of them again."""
        return sum(self.log_bytes) - sum(self.dropped_head)

    def dropped(self, stream: LogStream) -> tuple[int, int]:
        """Of one log: dropped_head and dropped_tail."""
        at = stream is LogStream.STDERR  # the second of two
        return (
            self.dropped_head[at] if len(self.dropped_head) > at else 0,
            self.dropped_tail[at] if len(self.dropped_tail) > at else 0,
        )

    def words(self) -> str:
        """`FAILED (exit code 3)`, `FAILED (signal 9, SIGKILL)`, `LOST (executor lost)`."""
        why = []
        if self.reason not in (EndReason.EXITED, EndReason.SIGNALLED):
            why.append(self.reason.name.lower().replace("_", " "))
        if self.exit_code is not None:
            why.append(f"exit code {self.exit_code}")
        if self.signal is not None:
            try:
                why.append(f"signal {self.signal}, {signal.Signals(self.signal).name}")
            except ValueError:  # real-time signals have no names
                why.append(f"signal {self.signal}")
        if self.detail:
            why.append(self.detail)
        return f"{self.state.name} ({'; '.join(why)})"


# Does work off the event loop.
InThread = Callable[[Callable[[], None]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as callers may see it now: `end` is set once the state is final and on disk."""

    index: int
    spec: JobSpec
    state: JobState
    started_at: int | None
    end: JobEnd | None


class BatchView(Protocol):
    """A batch as callers may see it, unfinished or finished; live: its answers change while the batch runs."""

    @property
    def header(self) -> BatchHeader: ...

    @property
    def job_count(self) -> int: ...

    @property
    def state(self) -> BatchState: ...

    @property
    def is_over(self) -> bool:
        """It is final, and its folder lies where it stays, if the disk would have it."""
        ...

    @property
    def started_at(self) -> int | None: ...

    @property
    def ended_at(self) -> int | None: ...

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; absent is 0."""
        ...

    def job_state(self, index: int) -> JobState:
        """The state of one job; cheap."""
        ...

    def handed_out(self, index: int) -> bool:
        """A job may have written already, though its state still says QUEUED: its start is told a little later."""
        ...

    def job(self, index: int) -> JobView:
        """One job whole; reads its lines from disk. `index` is below job_count."""
        ...

    def log_path(self, index: int, stream: LogStream) -> str:
        """Where a log lies now; the batch's folder moves once, when it ends, and the path with it. A job that was never
        started has no file there."""
        ...

    def log_gaps(self, index: int, stream: LogStream) -> list[tuple[int, int]]:
        """What a power failure took of a log, as far as it was noted: from which byte to before which, in order.

        Raises:
            OSError: that cannot be read now.
        """
        ...

    async def load(self, in_thread: InThread) -> None:
        """To be awaited once before `job_state` or `job` is asked: of a large batch on disk, what is needed to find a
        job is read meanwhile."""
        ...

    def subscribe(self, watcher: BatchWatcher) -> None:
        """Has the watcher called on the event loop after each change of a job; never on a final batch."""
        ...

    def unsubscribe(self, watcher: BatchWatcher) -> None: ...


class BatchWatcher(Protocol):
    """Who wants to know of changes."""

    def changed(self, index: int) -> None:
        """Job `index` has started or is final. After the batch's last change, `finished` is called instead of more."""
        ...

    def changed_many(self, begin: int, stop: int) -> None:
        """As `changed`, of all jobs from `begin` to `stop` - 1, a million perhaps: they never ran, and are final."""
        ...

    def finished(self) -> None:
        """The batch is final."""
        ...


def batch_state(counts: dict[JobState, int], job_count: int) -> BatchState:
    """The state that follows from the counts."""
    if counts.get(JobState.QUEUED, 0) == job_count:
        return BatchState.QUEUED
    if counts.get(JobState.QUEUED, 0) or counts.get(JobState.RUNNING, 0):
        return BatchState.RUNNING
    if any(counts.get(s, 0) for s in (JobState.FAILED, JobState.TIMED_OUT, JobState.LOST)):
        return BatchState.FAILED
    if any(counts.get(s, 0) for s in (JobState.CANCELLED, JobState.SKIPPED)):
        return BatchState.CANCELLED
    return BatchState.SUCCEEDED
