"""After a power failure at any moment, whatever of what was not synced is left: nothing that anybody was told is taken
back. The service's own parts run over a disk that forgets (tests/harness/crashdisk.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from jobworker.server.errors import DamagedError
from jobworker.server.model import BatchHeader, BatchOptions, BatchView, JobEnd, JobSpec, JobState
from jobworker.server.scheduling.accept import Acceptor
from jobworker.server.scheduling.order import RunSettings
from jobworker.server.scheduling.quotas import AcceptLimits
from jobworker.server.scheduling.scheduler import Scheduler
from jobworker.server.slices import Slices
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.disk import Disk
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.layout import Layout
from jobworker.server.store.recovery import recover
from jobworker.server.store.syncer import ThreadSyncer
from jobworker.server.telemetry.observe import Observer
from tests.harness.crashdisk import RecordingDisk, images
from tests.harness.ledger import make_ledger
from tests.harness.modelworker import ModelWorker
from tests.rpc.conftest import Lines

SETTINGS = RunSettings(running_jobs=4, timeout_seconds=None, grace_seconds=1, linger_seconds=1, log_bytes=None)
LIMITS = AcceptLimits(
    batch_jobs=100_000,
    user_unfinished_jobs=100_000,
    user_unfinished_batches=1000,
    free_disk_bytes=0,
    default_parallelism=4,
)
# So small that a run goes through several, with their checkpoints.
SEGMENT_BYTES = 4096


@dataclass
class Run:
    """What was told to whom, and how many calls the disk had had by then."""

    disk: RecordingDisk
    told: list[tuple[int, str, str, object]] = field(default_factory=list)

    def note(self, what: str, name: str, more: object = None) -> None:
        self.told.append((len(self.disk.ops), what, name, more))

    def ordered(self, moment: int, name: str) -> bool:
        """Whether the order of a job was written by then, sent or not."""
        correlation_id, _, number = name.partition("/")
        for op in self.disk.ops[:moment]:
            if op.kind == "write" and correlation_id.encode() in op.data and b'"order"' in op.data:
                for line in op.data.splitlines():
                    if line.startswith(b'{"k":"order"') and int(number) in json.loads(line)["jobs"]:
                        return True
        return False


class Noting(Observer):
    """Notes what callers can see from then on."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        for index, end in ends:
            self._run.note("ended", f"{header.correlation_id}/{index}", end)

    def jobs_skipped(self, header: BatchHeader, ranges: Sequence[tuple[int, int]], end: JobEnd) -> None:
        for begin, stop in ranges:
            for index in range(begin, stop):
                self._run.note("ended", f"{header.correlation_id}/{index}", end)


class Service:
    """Everything durable of a server, over a folder."""

    def __init__(self, root: Path, run: Run, *, epoch: str = "e1") -> None:
        log, slices = Lines(), Slices()
        self.log = log
        self.layout = Layout(root)
        self._lock = self.layout.prepare()
        self.batches = Batches(layout=self.layout, report=log.error)
        self.ledger = make_ledger(self.layout, self.batches, log, disk=run.disk, segment_bytes=SEGMENT_BYTES)
        found = recover(layout=self.layout, disk=run.disk, boot="boot", report=log.error)
        self.ledger.begin(found)
        self.scheduler = Scheduler(
            batches=self.batches, ledger=self.ledger, settings=SETTINGS, clock_ns=time.time_ns, log=log,
            observer=Noting(run), slices=slices,
        )  # fmt: skip
        self.scheduler.recover(found)
        self.syncer = ThreadSyncer(threads=1)
        self.acceptor = Acceptor(
            layout=self.layout, batches=self.batches, ledger=self.ledger, syncer=self.syncer, limits=LIMITS,
            clock_ns=time.time_ns, accepting=self.scheduler.begin, accepted=self.scheduler.submit,
            withdrawn=self.scheduler.withdraw, observer=Observer(), slices=slices,
        )  # fmt: skip
        self.worker = ModelWorker(epoch=epoch, note=run.note)
        self.worker.listener = self.scheduler
        self.scheduler.use(self.worker)
        self.worker.attach()
        self._run = run

    async def submit(self, *commands: str, **options: object) -> ActiveBatch | None:
        """The batch, unless it has finished meanwhile."""
        intake = self.acceptor.begin(user="alice", correlation_id=None, single=False)
        for number, command in enumerate(commands):
            await intake.add(JobSpec(command=command), None if number else BatchOptions(**options))  # type: ignore[arg-type]
        accepted = await intake.commit()
        self._run.note("accepted", accepted.correlation_id, len(commands))
        return self.batches.active.get(accepted.correlation_id)

    async def quiet(self) -> None:
        """Until every batch is finished, and moved."""
        async with asyncio.timeout(60):
            while self.batches.active:
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        await self.ledger.close()
        self.syncer.close()
        os.close(self._lock)


async def play(root: Path, run: Run) -> None:
    """Small batches, one that is too large for the commit log, a cancelled one, one that fails fast, and one whose
    executor dies before it has started a job."""
    service = Service(root, run)
    await service.submit("true")
    for _ in range(3):
        await asyncio.gather(*(service.submit("true", "false") for _ in range(2)))
    await service.submit(*["true " + "x" * 3000] * 25, parallelism=3)
    cancelled = await service.submit(*["true"] * 12, parallelism=1)
    if cancelled is not None:
        await service.scheduler.cancel(cancelled, wanted=None, grace_seconds=0)
    await service.submit(*["false"] * 2, "true", "true", parallelism=1, fail_fast=True)
    await service.quiet()
    service.worker.holds = True
    waiting = await service.submit(*["true"] * 6, parallelism=3)
    assert waiting is not None
    async with asyncio.timeout(60):
        while len(service.worker.waiting) < 3:
            await asyncio.sleep(0.001)
    service.worker.holds = False
    service.worker.die(next_epoch="e2")
    await service.quiet()
    assert set(service.worker.times_started.values()) == {1}
    await service.close()


def record(root: Path, skip: Callable[[str, str], bool] = lambda _call, _path: False) -> Run:
    root.mkdir()
    os.close(Layout(root).prepare())
    run = Run(RecordingDisk(root, skip=skip))
    asyncio.run(play(root, run))
    return run


def found_after(place: Path) -> tuple[dict[str, BatchView], list[str]]:
    """Every batch that a server finds there, and what it reports as damaged."""
    layout = Layout(place)
    os.close(layout.prepare())
    problems: list[str] = []
    found = recover(
        layout=layout, disk=Disk(), boot="boot", report=lambda path, what: problems.append(f"{path}: {what}")
    )
    batches: dict[str, BatchView] = {str(batch.header.correlation_id): batch for batch in found.batches}
    for folder in (place / "batches").glob("*/*/*/*"):
        with contextlib.suppress(DamagedError, FileNotFoundError):
            batches[folder.name] = FinishedBatch(str(folder))
    return batches, problems


def violations(run: Run, moment: int, place: Path) -> list[str]:
    """What was told by then, and is not so any more."""
    batches, wrong = found_after(place)
    try:
        return wrong + _violations(run, moment, place, batches)
    finally:
        for batch in batches.values():
            batch.close()  # type: ignore[attr-defined]


def _violations(run: Run, moment: int, place: Path, batches: dict[str, BatchView]) -> list[str]:
    wrong: list[str] = []
    told = [(what, name, more) for at, what, name, more in run.told if at <= moment]
    for number, (what, name, more) in enumerate(told):
        if what == "sent" and ("never started", name) in [later[:2] for later in told[number:]]:
            continue
        wrong += _taken_back(batches, what, name, more)
    for batch in batches.values():
        if isinstance(batch, ActiveBatch):
            name = batch.header.correlation_id
            running = [f"{name}/{index}" for index in batch.recorded.running]
            wrong += [
                f"{job} is with an executor that was never told" for job in running if not run.ordered(moment, job)
            ]
    for path in place.glob("**/results.jsonl"):
        unread = [line for line in path.read_bytes().splitlines() if not _is_json(line)]
        wrong += [f"{path.relative_to(place)} has a line that cannot be read: {line[:40]!r}" for line in unread]
    return wrong


def _taken_back(batches: dict[str, BatchView], what: str, name: str, more: object) -> list[str]:
    correlation_id, _, number = name.partition("/")
    batch = batches.get(correlation_id)
    if batch is None:
        return [f"{name} was acknowledged, and is not there"] if what == "accepted" else []
    if what in ("accepted", "stopped", "never started"):
        return []
    state = batch.job_state(int(number))
    if what == "sent" and state is JobState.QUEUED and not batch.handed_out(int(number)):
        return [f"{name} was sent, and would be again"]
    if what == "acknowledged" and not state.final:
        return [f"{name} was acknowledged to the executor, and is {state.name}"]
    if what == "ended" and isinstance(more, JobEnd):
        end = batch.job(int(number)).end
        if end is None or (end.state, end.reason, end.exit_code) != (more.state, more.reason, more.exit_code):
            return [f"{name} was {more.words()}, and is {end and end.words()}"]
    return []


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def check(run: Run, place: Path, *, seed: int, each: int, every: int = 1) -> list[str]:
    """All that is wrong with any image of the run."""
    wrong = []
    for moment, found in images(run.disk, place, first=1, seed=seed, each=each):
        if moment % every == 0:
            wrong += [f"after {moment} calls: {what}" for what in violations(run, moment, found)]
            if len(wrong) > 20:
                break
    return wrong


def test_nothing_that_was_told_is_taken_back_by_a_power_failure_at_any_moment(tmp_path: Path) -> None:
    run = record(tmp_path / "data")
    assert len([what for what in run.told if what[1] == "accepted"]) == 11
    place = tmp_path / "images"
    place.mkdir()
    assert check(run, place, seed=1, each=3) == []


# A checkpoint's sync may come in between, and make up for the one that is missing.
_ATTEMPTS = 10

SYNCS = [
    pytest.param("write_synced", "commit", id="of a commit"),
    pytest.param("sync", "commit", id="of a segment that begins"),
    pytest.param("sync_folder", "commit", id="of a segment's name"),
    pytest.param("sync_all", "", id="of a checkpoint"),
    pytest.param("sync", "batch.jsonl", id="of a large batch"),
    pytest.param("sync_folder", "active/", id="of a large batch's folder"),
    pytest.param("sync_folder", "active", id="of the folder of unfinished batches"),
]


@pytest.mark.parametrize(("call", "path"), SYNCS)
def test_each_sync_is_needed(tmp_path: Path, call: str, path: str) -> None:
    def skip(root: Path, this: str, at: str) -> bool:
        rest = at.removeprefix(f"{root}").lstrip("/")
        return this == call and (path in rest if path != "active" else rest == "active")

    place = tmp_path / "images"
    place.mkdir()
    for attempt in range(_ATTEMPTS):
        root = tmp_path / f"data{attempt}"
        if check(record(root, partial(skip, root)), place, seed=2 + attempt, each=1):
            return
    pytest.fail("nothing is missing without it")
