"""What the acceptor and the scheduler tell their observer, with a real executor behind them: each thing once, and an
end only after it is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobworker.executor import bundle
from jobworker.server.model import BatchHeader, BatchOptions, BatchState, EndReason, JobEnd, JobSpec, JobState
from jobworker.server.scheduling.accept import Acceptor
from jobworker.server.scheduling.local import LocalWorker
from jobworker.server.scheduling.order import RunSettings
from jobworker.server.scheduling.quotas import AcceptLimits
from jobworker.server.scheduling.scheduler import Scheduler
from jobworker.server.scheduling.startflags import StartFlagFiles
from jobworker.server.slices import Slices
from jobworker.server.store.batches import Batches
from jobworker.server.store.layout import Layout
from jobworker.server.store.syncer import ThreadSyncer
from jobworker.server.store.uids import Uids
from jobworker.server.telemetry.observe import Observer, Observers
from tests.harness.ledger import GatedDisk, begin_ledger, make_ledger
from tests.rpc.conftest import Lines

SETTINGS = RunSettings(running_jobs=8, timeout_seconds=None, grace_seconds=1, linger_seconds=1, log_bytes=None)
LIMITS = AcceptLimits(
    batch_jobs=1000, user_unfinished_jobs=1000, user_unfinished_batches=100, free_disk_bytes=0, default_parallelism=4
)


class Noted(Observer):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:
        assert began_at < durable_at
        self.told.append(("accepted", header.correlation_id, job_count))

    def batch_recovered(self, header: BatchHeader, job_count: int) -> None:
        self.told.append(("recovered", header.correlation_id, job_count))

    def jobs_ordered(self, header: BatchHeader, indexes: Sequence[int], at: int) -> None:
        self.told += [("ordered", header.correlation_id, index) for index in indexes]

    def jobs_started(self, header: BatchHeader, indexes: Sequence[int]) -> None:
        self.told += [("started", header.correlation_id, index) for index in indexes]

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        self.told += [("ended", header.correlation_id, index, end.state, end.reason) for index, end in ends]

    def jobs_skipped(self, header: BatchHeader, ranges: Sequence[tuple[int, int]], end: JobEnd) -> None:
        for begin, stop in ranges:
            self.jobs_ended(header, [(index, end) for index in range(begin, stop)])

    def batch_finished(
        self, header: BatchHeader, job_count: int, state: BatchState, started_at: int | None, ended_at: int | None
    ) -> None:
        self.told.append(("finished", header.correlation_id, job_count, state))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [what for what in self.told if what[0] == kind]


class Server:
    """Acceptor, scheduler and worker over a folder, as app.py wires them; one executor at a time."""

    def __init__(self, root: Path, *, boot: str = "boot") -> None:
        self.layout = Layout(root / "data")
        self._lock = self.layout.prepare()
        self.noted = Noted()
        self.syncer = ThreadSyncer()
        self.disk = GatedDisk()
        log = Lines()
        slices = Slices()
        observer = Observers(self.noted, Observer())
        self.batches = Batches(layout=self.layout, report=log.error)
        self.ledger = make_ledger(self.layout, self.batches, log, boot=boot, disk=self.disk)
        self.found = begin_ledger(self.ledger, self.layout, boot=boot)
        self.scheduler = Scheduler(
            batches=self.batches, ledger=self.ledger, settings=SETTINGS, clock_ns=time.time_ns, log=log,
            observer=observer, slices=slices,
        )  # fmt: skip
        self.worker = LocalWorker(
            listener=self.scheduler, flags=StartFlagFiles(self.layout.data), uids=Uids(self.layout.uids_file), log=log
        )
        self.acceptor = Acceptor(
            layout=self.layout, batches=self.batches, ledger=self.ledger, syncer=self.syncer,
            limits=LIMITS,
            clock_ns=time.time_ns, accepting=self.scheduler.begin, accepted=self.scheduler.submit,
            withdrawn=self.scheduler.withdraw, observer=observer, slices=slices,
        )  # fmt: skip
        self._pyz = root / "executor.pyz"
        bundle.build(str(self._pyz))
        self._executor: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Recovers what there is, and has an executor started."""
        self.scheduler.recover(self.found)
        self.scheduler.use(self.worker)
        self.new_executor()

    def new_executor(self) -> None:
        self.end_executor()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", str(self._pyz), "--fd", str(theirs.fileno()), "--isolate", "none"]
        with theirs:
            self._executor = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
        self.worker.connect(ours)

    def end_executor(self) -> None:
        if self._executor is not None:
            self._executor.kill()
            self._executor.wait()

    async def submit(self, *commands: str, **options: Any) -> str:
        intake = self.acceptor.begin(user="alice", correlation_id=None, single=False)
        for number, command in enumerate(commands):
            await intake.add(JobSpec(command=command), None if number else BatchOptions(**options))
        return str((await intake.commit()).correlation_id)

    async def told(self, kind: str, count: int) -> list[tuple[Any, ...]]:
        """Waits for so many."""
        async with asyncio.timeout(60):
            while len(self.noted.of(kind)) < count:
                await asyncio.sleep(0.005)
        return self.noted.of(kind)

    async def close(self) -> None:
        self.disk.gate.set()
        self.worker.close()
        self.end_executor()
        await self.ledger.close()
        self.syncer.close()
        self.batches.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    yield made
    await made.close()


async def test_a_batch_is_told_from_its_acceptance_to_its_end_each_thing_once_and_in_order(server: Server) -> None:
    server.begin()
    batch = await server.submit("true", "exit 3", "kill -9 $$", parallelism=2)
    await server.told("finished", 1)
    told = server.noted.told
    assert told[0] == ("accepted", batch, 3)
    assert told[-1] == ("finished", batch, 3, BatchState.FAILED)
    for kind in ("ordered", "started", "ended"):
        assert sorted(what[2] for what in server.noted.of(kind)) == [0, 1, 2], kind
    for index in range(3):
        kinds = [what[0] for what in told if what[0] in ("ordered", "started", "ended") and what[2] == index]
        assert kinds == ["ordered", "started", "ended"]
    assert {what[2]: what[3:] for what in server.noted.of("ended")} == {
        0: (JobState.SUCCEEDED, EndReason.EXITED),
        1: (JobState.FAILED, EndReason.EXITED),
        2: (JobState.FAILED, EndReason.SIGNALLED),
    }


async def test_neither_a_batch_nor_an_end_is_told_before_it_is_on_disk(server: Server, scratch: Path) -> None:
    server.begin()
    server.disk.gate.clear()
    submitting = asyncio.create_task(server.submit(f"until [ -e {scratch}/go ]; do sleep 0.02; done; exit 3"))
    async with asyncio.timeout(60):
        while not server.ledger._in_flight:
            await asyncio.sleep(0.005)
    assert server.noted.told == []
    server.disk.gate.set()
    batch = await submitting
    await server.told("started", 1)
    server.disk.gate.clear()
    (scratch / "go").touch()
    found = next(iter(server.batches.active.values()))
    async with asyncio.timeout(60):
        while found.recorded.open_count:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0)
    assert found.counts() == {JobState.RUNNING: 1}
    results = Path(server.layout.active_root) / batch / "results.jsonl"
    assert not results.exists() or b'"k":"end"' not in results.read_bytes()
    assert server.noted.of("ended") == server.noted.of("finished") == []
    server.disk.gate.set()
    await server.told("finished", 1)
    assert [what[2] for what in server.noted.of("ended")] == [0]


async def test_jobs_that_are_skipped_or_cancelled_are_told_once(server: Server) -> None:
    server.begin()
    batch = await server.submit(*["sleep 600"] * 6, parallelism=2)
    await server.told("started", 2)
    found = next(iter(server.batches.active.values()))
    await server.scheduler.cancel(found, wanted=None, grace_seconds=0)
    await server.told("finished", 1)
    await server.scheduler.cancel(found, wanted=None, grace_seconds=0)
    assert Counter(what[3] for what in server.noted.of("ended")) == {JobState.SKIPPED: 4, JobState.CANCELLED: 2}
    assert sorted(what[2] for what in server.noted.of("ended")) == list(range(6))
    assert server.noted.told[-1] == ("finished", batch, 6, BatchState.CANCELLED)


async def test_jobs_lost_with_their_executor_are_told_once(server: Server) -> None:
    server.begin()
    await server.submit(*["sleep 600"] * 3)
    await server.told("started", 3)
    server.new_executor()
    await server.told("finished", 1)
    assert [what[2:] for what in server.noted.of("ended")] == [
        (index, JobState.LOST, EndReason.EXECUTOR_LOST) for index in range(3)
    ]
    assert server.worker.epochs == 2


async def test_what_a_dead_machine_took_is_told_by_the_server_that_finds_it(server: Server, tmp_path: Path) -> None:
    server.begin()
    batch = await server.submit("true", *["sleep 600"] * 3, parallelism=2)
    await server.told("ended", 1)
    await server.told("started", 3)
    await server.close()
    after = Server(tmp_path, boot="another life of the machine")
    try:
        after.begin()
        await after.told("finished", 1)
        assert after.noted.told[0] == ("recovered", batch, 4)
        ended = {what[2]: what[3:] for what in after.noted.of("ended")}
        # The first was told by the server that saw it end; the last was ordered ahead of its turn.
        assert ended == dict.fromkeys((1, 2, 3), (JobState.LOST, EndReason.MACHINE_LOST))
        assert len(after.noted.of("ended")) == 3
        assert after.noted.of("accepted") == after.noted.of("started") == []
    finally:
        await after.close()
