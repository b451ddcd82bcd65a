"""What happens to a job between the record of its order and the order itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobworker.server.errors import UnavailableError
from jobworker.server.model import EndReason, JobState
from jobworker.server.scheduling import order as order_module
from jobworker.server.scheduling import scheduler as scheduler_module
from jobworker.server.store.active import ActiveBatch
from tests.harness.ledger import GatedDisk
from tests.store.test_power_loss import Run, Service


class Disk(GatedDisk):
    ops: list[object] = []  # noqa: RUF012  (when something was told does not matter here)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[Service, Run, Disk]]:
    disk = Disk()
    run = Run(disk)  # type: ignore[arg-type]
    made = Service(tmp_path, run)
    yield made, run, disk
    disk.gate.set()
    await made.close()


def sent(run: Run) -> list[str]:
    return [name for _, what, name, _ in run.told if what == "sent"]


async def ordered(service: Service, disk: Disk, *commands: str) -> ActiveBatch:
    """A batch that was accepted, and whose first order is on its way to the disk, which does not take it yet."""
    made: list[ActiveBatch] = []
    service.acceptor.accepting = lambda _: None
    service.acceptor.accepted = lambda batch: (made.append(batch), disk.gate.clear(), service.scheduler.submit(batch))
    await service.submit(*commands, parallelism=1)
    async with asyncio.timeout(60):
        while not made[0].recorded.running:
            await asyncio.sleep(0)
    return made[0]


async def test_a_job_that_is_cancelled_before_its_order_is_sent_never_runs(
    service: tuple[Service, Run, Disk],
) -> None:
    server, run, disk = service
    batch = await ordered(server, disk, "true", "true")
    cancelling = asyncio.create_task(server.scheduler.cancel(batch, wanted=None, grace_seconds=None))
    await asyncio.sleep(0)
    disk.gate.set()
    await asyncio.wait_for(cancelling, 60)
    await server.quiet()
    assert sent(run) == []
    assert batch.counts() == {JobState.SKIPPED: 2}
    assert {job.end.reason for job in map(batch.job, (0, 1)) if job.end} == {EndReason.CANCELLED}


async def test_an_order_whose_executor_went_before_it_was_sent_goes_to_the_next(
    service: tuple[Service, Run, Disk],
) -> None:
    server, run, disk = service
    batch = await ordered(server, disk, "true")
    server.worker.epoch = "e2"
    server.worker.attach()
    disk.gate.set()
    await server.quiet()
    assert sent(run) == [f"{batch.header.correlation_id}/0"]
    assert batch.counts() == {JobState.SUCCEEDED: 1}


async def test_an_order_that_does_not_become_durable_is_not_sent_until_it_does(
    service: tuple[Service, Run, Disk],
) -> None:
    server, run, disk = service
    batch = await ordered(server, disk, "true")
    disk.error = OSError(5, os.strerror(5))
    disk.gate.set()
    async with asyncio.timeout(60):
        while server.ledger.problem is None:
            await asyncio.sleep(0)
    assert (sent(run), batch.recorded.running) == ([], {})
    disk.error = None
    await server.quiet()
    assert sent(run) == [f"{batch.header.correlation_id}/0"]


async def begun(service: Service, disk: Disk, *commands: str) -> tuple[asyncio.Task[ActiveBatch | None], ActiveBatch]:
    """A submission that waits for the disk, and its batch."""
    made: list[ActiveBatch] = []
    real = service.scheduler.begin
    service.acceptor.accepting = lambda batch: (made.append(batch), real(batch))
    disk.gate.clear()
    submitting = asyncio.create_task(service.submit(*commands, parallelism=2))
    async with asyncio.timeout(60):
        while not made:
            await asyncio.sleep(0)
    return submitting, made[0]


async def test_the_first_orders_become_durable_in_the_commit_that_accepts_their_batch(
    service: tuple[Service, Run, Disk],
) -> None:
    server, run, disk = service
    submitting, batch = await begun(server, disk, "true", "true", "true")
    assert (list(batch.recorded.running), sent(run)) == ([0, 1], [])
    before = disk.commits
    disk.gate.set()
    await asyncio.wait_for(submitting, 60)
    assert disk.commits == before + 1
    assert list(batch.visible.running) == [0, 1]
    async with asyncio.timeout(60):
        while len(sent(run)) < 2:
            await asyncio.sleep(0)
    await server.quiet()
    assert batch.counts()[JobState.SUCCEEDED] == 2  # as the model ends them
    assert sorted(sent(run)) == [batch.job_id(index) for index in range(3)]


async def test_a_batch_whose_client_went_before_it_was_durable_has_no_job_started(
    service: tuple[Service, Run, Disk],
) -> None:
    server, run, disk = service
    submitting, batch = await begun(server, disk, "true", "true")
    submitting.cancel()
    await asyncio.sleep(0)
    disk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(submitting, 60)
    await asyncio.wait_for(server.scheduler.idle(), 60)
    assert await server.submit("true") is not None
    await server.quiet()
    assert not any(batch.header.correlation_id in name for name in sent(run))
    assert (server.ledger.running, server.batches.unfinished_of("alice")) == (0, (0, 0))
    assert not os.path.exists(batch.folder)


async def test_a_batch_that_could_not_be_made_durable_has_no_job_started(service: tuple[Service, Run, Disk]) -> None:
    server, run, disk = service
    submitting, batch = await begun(server, disk, "true")
    disk.error = OSError(5, os.strerror(5))
    disk.gate.set()
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(submitting, 60)
    disk.error = None
    assert (server.ledger.running, sent(run)) == (0, [])
    async with asyncio.timeout(60):
        while server.ledger.problem is not None:
            await asyncio.sleep(0.01)
    assert await server.submit("true") is not None
    await server.quiet()
    assert not any(batch.header.correlation_id in name for name in sent(run))
    assert not os.path.exists(batch.folder)


async def test_jobs_start_however_long_each_step_takes(
    service: tuple[Service, Run, Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that had no processor for a while finds each of its slices over at once."""
    server, run, _ = service
    monkeypatch.setattr(scheduler_module, "one_slice", lambda: lambda: True)
    batch = await server.submit(*["true"] * 5, parallelism=2)
    assert batch is not None
    await server.quiet()
    assert len(sent(run)) == 5


async def test_a_server_that_is_short_of_descriptors_lets_jobs_wait(
    service: tuple[Service, Run, Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, run, _ = service
    tries = []

    def refuse(path: str) -> int:
        tries.append(path)
        if len(tries) < 3:
            raise OSError(24, os.strerror(24))
        return real(path)

    real = order_module._open_log
    monkeypatch.setattr(order_module, "_open_log", refuse)
    batch = await server.submit("true", "true", parallelism=2)
    assert batch is not None
    await server.quiet()
    assert sorted(sent(run)) == [f"{batch.header.correlation_id}/{index}" for index in range(2)]
    assert batch.counts() == {JobState.SUCCEEDED: 1, JobState.FAILED: 1}  # as the model ends them
