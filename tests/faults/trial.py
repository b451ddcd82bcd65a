"""One fault's trial: a service, its load, its oracle, and the count of what was done to it. Scenarios drive it."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.faults.history import History, Kind, Violation
from tests.faults.load import Load
from tests.faults.rig import NotBackError, Rig, descriptors
from tests.faults.settle import Settler
from tests.harness import scratch

# Limits of waits that end when what they wait for is there: so long that a slow machine does not look like a fault.
_FOLLOWER_SECONDS = 300.0
_FIRST_BATCH_SECONDS = 60.0
_MORE_DESCRIPTORS = 8  # than after the first round: threads that start as they are needed, not leaks
_CACHED_BATCHES = 64  # finished ones that the server keeps at hand
_CLOSING_SECONDS = 60.0


@dataclass(frozen=True)
class Bounds:
    """How much is done."""

    count: int  # faults
    until: float  # time.monotonic(): none is begun after that
    patience_seconds: float  # for all to become final
    seed: str


@dataclass(frozen=True)
class Open:
    """What a process at rest has open."""

    files: list[str]  # of batches, though none is unfinished and nobody asks
    cached: int  # batches whose list of jobs is kept open on purpose
    others: int

    @classmethod
    def of(cls, pid: int, data: Path) -> Open:
        """As it is now."""
        found = descriptors(pid)
        batches = [path for path in found if path.startswith((f"{data}/active/", f"{data}/batches/", f"{data}/trash/"))]
        cached = [path for path in batches if path.startswith(f"{data}/batches/") and path.endswith("/batch.jsonl")]
        files = sorted(set(batches) - set(cached))
        return cls(files, len(cached), len(found) - len(batches))

    def problem(self, first: int) -> str:
        """What of it is a leak; empty when nothing is. `first`: the others after the first round of its life."""
        if self.files:
            return f"{len(self.files)} files of batches are open: {self.files[:3]}"
        if self.cached > _CACHED_BATCHES:
            return f"{self.cached} lists of jobs are open"
        if self.others > first + _MORE_DESCRIPTORS:
            return f"{first} were open after the first round, and {self.others} are now, the files of batches aside"
        return ""


class Trial:
    """Wired for one scenario."""

    def __init__(self, name: str, folder: Path, bounds: Bounds, say: Callable[[str], None], **settings: str) -> None:
        self.dice = random.Random(f"{bounds.seed}/{name}")
        self.history = History()
        # So few at a time that they start soon after they were ordered: a job that was and left no mark is undecided.
        self.rig = Rig(folder / "service", self.history, JOBS__RUNNING="16", JOBS__PARALLELISM="4", **settings)
        self.done = 0
        self.gave_up = ""
        self.idle_rounds = 0  # in which no batch was accepted: they say little
        self._accepted = 0
        self._bounds = bounds
        self._say = say
        self._name = name
        marks = scratch.folder() / "marks"
        marks.touch()
        marks.chmod(0o666)  # jobs are another user
        service = self.rig.service
        self.load = Load(service, self.history, marks=marks, seed=f"{bounds.seed}/{name}")
        self._settler = Settler(service, self.history, marks=marks, patience_seconds=bounds.patience_seconds)
        self._descriptors: dict[int, int] = {}

    # -- what a scenario does

    def run(self, scenario: Callable[[Trial], None]) -> None:
        """The whole of it. A service that does not come back ends the trial, and is a violation."""
        try:
            scenario(self)
        except NotBackError as error:
            self.gave_up = "the service did not come back"
            self._accuse([Violation(Kind.NOT_BACK, detail=str(error))])
        except grpc.RpcError as error:
            self.gave_up = "the service does not answer"
            self._accuse([Violation(Kind.NOT_BACK, detail=f"{error.code().name}: {error.details()}")])

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """Starts it, and ends it at the end."""
        try:
            self.rig.start()
            yield
        finally:
            self.load.close()
            self.rig.stop()

    def rounds(self, faults: int) -> Iterator[Iterator[int]]:
        """Rounds of at most so many faults each: under load, then judged. The body of the loop injects the faults that
        it is given, and leaves the service as it should be."""
        while self.done < self._bounds.count and not (self.done and self._is_over()):
            self.load.start()
            self._wait_for_load()
            yield self._faults(min(faults, self._bounds.count - self.done))
            self.load.stop()
            self._judge()

    def _wait_for_load(self) -> None:
        """Until some batch of this round was accepted: a fault that meets nothing says nothing."""
        deadline = time.monotonic() + _FIRST_BATCH_SECONDS
        while time.monotonic() < deadline and self._expected() <= self._accepted:
            time.sleep(0.02)

    def _expected(self) -> int:
        return sum(b.expected for b in list(self.history.batches.values()))

    def _faults(self, count: int) -> Iterator[int]:
        for _ in range(count):
            if self._is_over() and self.done:
                return
            yield self.done
            self.done += 1

    def pause(self, least: float = 0.1, most: float = 1.2) -> None:
        """A random while."""
        time.sleep(self.dice.uniform(least, most))

    def expect_disk_full(self) -> None:
        """Jobs may end for want of room."""
        self.history.disk_was_full = True

    # -- judging

    def _is_over(self) -> bool:
        return time.monotonic() > self._bounds.until

    def _judge(self) -> None:
        self.rig.ready()
        self._accuse(self._settler.settle(lambda: self.load.end_followers(_FOLLOWER_SECONDS)))
        if all(b.final_at is not None for b in self.history.batches.values() if b.expected):
            self._accuse(self._leaks())
        accepted = self._expected()
        self.idle_rounds += accepted == self._accepted
        self._accepted = accepted
        jobs = sum(len(b.jobs) for b in self.history.batches.values() if b.expected)
        self._say(f"{self.done}/{self._bounds.count}: {accepted} batches, {jobs} jobs, {self.total} violations")

    def _leaks(self) -> Iterator[Violation]:
        for name in ("server", "inner"):
            pid = self.rig.pid(name)
            seen = Open.of(pid, self.rig.service.data)
            first = self._descriptors.setdefault(pid, seen.others)
            deadline = time.monotonic() + _CLOSING_SECONDS
            while (problem := seen.problem(first)) and time.monotonic() < deadline:
                time.sleep(0.1)
                seen = Open.of(pid, self.rig.service.data)
            if problem:
                yield Violation(Kind.LEAKED_DESCRIPTORS, f"{name} {pid}", detail=problem)

    def _accuse(self, violations: Iterable[Violation]) -> None:
        fresh = self.history.accuse(violations)
        for kind, count in Counter(v.kind for v in fresh).items():
            first = next(v for v in fresh if v.kind is kind)
            where = f"{first.tag} job {first.index}" if first.index >= 0 else first.tag
            self._say(f"  {kind}: {count}, the first: {where}: {first.detail}")

    @property
    def total(self) -> int:
        """Violations so far."""
        return len(self.history.violations)
