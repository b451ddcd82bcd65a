"""What clients did and were shown, and what befell the service, with times of one clock. Data alone: `oracle.py` judges
it, and the load and the scenarios write it. All times are time.monotonic()."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from tests.faults.jobs import JobSpec, Marks

ALL = -1  # every job of a batch


class Submission(Enum):
    """How a submission went, as its client saw it."""

    UNDER_WAY = "under way"
    ACKNOWLEDGED = "acknowledged"  # the id was returned
    REFUSED = "refused"  # the service itself said no
    CUT = "cut"  # the client gave up before it had sent all of it
    UNKNOWN = "unknown"  # sent whole, and no answer came


class Death(StrEnum):
    """What died, of that which jobs depend on."""

    EXECUTOR = "executor"
    MACHINE = "machine"  # and with it what was not synced


class Kind(StrEnum):
    """Kinds of violations."""

    LOST_BATCH = "acknowledged batch lost"
    RAN_UNACKNOWLEDGED = "job of a batch without an id ran"
    STARTED_TWICE = "job started twice"
    TAKEN_BACK = "state that was shown changed"
    NEVER_FINAL = "job never became final"
    WRONG_STATE = "state contradicts what the job did"
    LOST_WITHOUT_DEATH = "LOST without a death"
    LOST_UNSTARTED = "LOST though never started"
    WRONG_LOG = "log differs from what was printed"
    NUL_BYTES = "NUL bytes served as output"
    FOLLOWER_DIFFERS = "follower's bytes differ"
    FOLLOWER_CUT_SHORT = "follower's stream ended early"
    FOLLOWER_HUNG = "follower's stream hung"
    DAMAGED_RESULTS = "undecodable lines in results.jsonl"
    NOT_BACK = "service did not come back"
    LEAKED_DESCRIPTORS = "descriptors leaked"


_BYTES = (Kind.WRONG_LOG, Kind.NUL_BYTES, Kind.FOLLOWER_DIFFERS)


@dataclass(frozen=True)
class Violation:
    """One, with what it was seen at. Equal ones are the same."""

    kind: Kind
    tag: str = ""
    index: int = ALL
    detail: str = field(default="", compare=False)


@dataclass
class Batch:
    """What one client submitted. `tag` is its name in the service, and in its jobs' marks."""

    tag: str
    jobs: list[JobSpec]
    parallelism: int
    submitted_at: float
    submission: Submission = Submission.UNDER_WAY
    correlation_id: str = ""
    acknowledged_at: float = 0.0
    cancelled: set[int] = field(default_factory=set)  # indexes, or ALL: cancelling them was asked for
    final_at: float | None = None  # when all of it was first seen final
    judged: bool = False  # once, with all its logs

    @property
    def expected(self) -> bool:
        """The service must have it."""
        return self.submission is Submission.ACKNOWLEDGED

    def may_be_cancelled(self, index: int) -> bool:
        """Somebody asked for it."""
        return ALL in self.cancelled or index in self.cancelled


@dataclass(frozen=True)
class JobState:
    """A job as it was shown. `state` and `reason` without the prefixes of their enums; `outcome` as of the oneof."""

    state: str
    reason: str = ""
    outcome: tuple[str, int] | None = None
    detail: str = field(default="", compare=False)  # words for people

    @property
    def final(self) -> bool:
        """It must not change any more."""
        return self.state not in ("QUEUED", "RUNNING", "UNSPECIFIED")

    def __str__(self) -> str:
        told = f" {self.outcome[0]} {self.outcome[1]}" if self.outcome else ""
        return f"{self.state}{told} ({self.reason}{f', {self.detail}' if self.detail else ''})"


@dataclass(frozen=True)
class Shown:
    """Something that a call told: a job's state, or a batch's counts by state. `gone`: that there is no such batch."""

    tag: str
    began: float
    ended: float
    by: str
    index: int = ALL
    job: JobState | None = None
    batch_state: str = ""
    counts: tuple[tuple[str, int], ...] = ()
    gone: bool = False


@dataclass
class Log:
    """A job's log as one reader got it: pieces at offsets, gaps, and the end if it came."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # offset, length
    total: int | None = None
    end: JobState | None = None
    faults: list[str] = field(default_factory=list)  # of the stream itself: overlaps and holes between its pieces
    offset: int = 0  # where it is to go on

    def take(self, offset: int, length: int) -> None:
        """Counts what comes; notes when it is not what had to come next."""
        if offset != self.offset:
            self.faults.append(f"a piece at {offset} where {self.offset} was to come")
        self.offset = offset + length

    def data(self) -> bytes:
        """The bytes with gaps filled by nothing; for logs without gaps."""
        return b"".join(piece for _, piece in self.pieces)


@dataclass
class Follow:
    """One follower: all logs of a batch, over as many calls as it took."""

    tag: str
    began: float
    logs: dict[int, Log] = field(default_factory=dict)
    done: bool = False  # every log had its end
    hung: bool = False
    ended_early: str = ""  # a stream that ended well, or was refused, and was not at its end
    rewound: bool = False  # the machine died, and the service has less than this follower: it began anew


@dataclass
class Died:
    """A death, from before its signal until whoever had to do with the dead one knew. From `gone` on there was nothing
    of it: no job started there."""

    kind: Death
    began: float
    gone: float = float("inf")
    ended: float = float("inf")


@dataclass
class History:
    """All of it, for one service."""

    batches: dict[str, Batch] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    follows: list[Follow] = field(default_factory=list)
    readings: dict[str, dict[int, Log]] = field(default_factory=dict)  # of finished batches: the last one
    deaths: list[Died] = field(default_factory=list)
    interruptions: list[float] = field(default_factory=list)  # the executor was told to stop
    disk_was_full: bool = False
    old_bytes: bool = False  # after a power failure this file system shows what other files had held: in logs, too
    documented: int = 0  # logs with such bytes
    marks: Marks = field(default_factory=Marks.none)
    violations: set[Violation] = field(default_factory=set)
    undecided_lost: set[tuple[str, int]] = field(default_factory=set)  # LOST, and no mark tells whether it had started
    statuses: dict[str, int] = field(default_factory=dict)  # of calls that failed
    lock: threading.Lock = field(default_factory=threading.Lock)
    _last: dict[tuple[str, int], tuple[JobState, bool]] = field(default_factory=dict)

    def show(self, *shown: Shown) -> None:
        """Notes what a call told. What only repeats what is known of a job is left out: before its first final state
        the same state again, after that the same final state."""
        with self.lock:
            for one in shown:
                if one.job is None:
                    self.shown.append(one)
                    continue
                last, was_final = self._last.get((one.tag, one.index), (None, False))
                if one.job != last or (was_final and not one.job.final):
                    self.shown.append(one)
                    self._last[one.tag, one.index] = one.job, was_final or one.job.final

    def failed(self, call: str, status: str) -> None:
        """Counts a failed call."""
        with self.lock:
            self.statuses[f"{call} {status}"] = self.statuses.get(f"{call} {status}", 0) + 1

    def accuse(self, violations: Iterable[Violation]) -> list[Violation]:
        """Adds violations; returns those that are new."""
        fresh = []
        with self.lock:
            for violation in violations:
                if self.old_bytes and violation.kind in _BYTES:
                    self.documented += 1
                    continue
                if violation not in self.violations:
                    self.violations.add(violation)
                    fresh.append(violation)
        return fresh

    def deaths_of(self, batch: Batch) -> list[Died]:
        """What died between a batch's submission and its last job's final state."""
        end = batch.final_at if batch.final_at is not None else float("inf")
        return [died for died in self.deaths if died.ended >= batch.submitted_at and died.began <= end]

    def machine_died_since(self, at: float) -> bool:
        """Bytes that were not synced may be gone."""
        return any(died.kind is Death.MACHINE and died.ended >= at for died in self.deaths)
