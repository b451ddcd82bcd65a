"""Batches on their way in: what many uploads at a time may have together, and what a failed one leaves behind."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobworker.server.errors import ExhaustedError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchOptions, BatchView, JobSpec, JobState
from jobworker.server.scheduling.accept import Intake
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.layout import BATCH
from tests.harness.ledger import GatedDisk
from tests.store.test_power_loss import LIMITS, Run, Service

SMALL, LARGE = "true", "true " + "x" * 100_000


class Disk(GatedDisk):
    ops: list[object] = []  # noqa: RUF012  (when something was told does not matter here)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(tmp_path, Run(Disk()))  # type: ignore[arg-type]
    yield made
    await made.close()


async def add_until_refused(service: Service, uploads: int) -> list[Intake]:
    """So many uploads of a user, a job of each in turn."""
    intakes = [service.acceptor.begin(user="alice", correlation_id=None, single=False) for _ in range(uploads)]
    taken = 0
    while True:
        for intake in intakes:
            try:
                await intake.add(JobSpec(command="true"), None if intake.count else BatchOptions())
            except ExhaustedError:
                return intakes
            taken += 1
            assert taken <= LIMITS.user_unfinished_jobs


async def test_many_uploads_at_a_time_have_one_quota_together(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobworker.server.scheduling.accept._ROOM_JOBS", 1)  # each looks again at each job
    few = type(LIMITS)(batch_jobs=100, user_unfinished_jobs=20, user_unfinished_batches=6, free_disk_bytes=0,
                       default_parallelism=1)  # fmt: skip
    service.acceptor.quotas.limits = few
    intakes = await add_until_refused(service, 6)
    assert sum(intake.count for intake in intakes) == 20
    with pytest.raises(ExhaustedError, match="6 unfinished batches"):
        service.acceptor.begin(user="alice", correlation_id=None, single=False)
    service.acceptor.begin(user="bob", correlation_id=None, single=False).abort()
    # What is given up is given back.
    for intake in intakes:
        intake.abort()
    again = await add_until_refused(service, 1)
    assert [intake.count for intake in again] == [20]
    again[0].abort()


async def test_uploads_that_saw_room_at_the_same_time_are_looked_at_again_when_they_are_complete(
    service: Service,
) -> None:
    service.worker.holds = True  # what is accepted stays unfinished
    service.acceptor.quotas.limits = type(LIMITS)(
        batch_jobs=100, user_unfinished_jobs=20, user_unfinished_batches=6, free_disk_bytes=0, default_parallelism=1
    )
    intakes = [service.acceptor.begin(user="alice", correlation_id=None, single=False) for _ in range(3)]
    for intake in intakes:
        for number in range(15):
            try:
                await intake.add(JobSpec(command="true"), None if number else BatchOptions())
            except ExhaustedError:
                break
    accepted = 0
    for intake in intakes:
        try:
            await intake.commit()
        except ExhaustedError:
            intake.abort()
        else:
            accepted += intake.count
    assert 0 < accepted <= 20
    service.worker.holds = False
    service.worker.die(next_epoch="e2")
    await service.quiet()


async def submit(service: Service, correlation_id: CorrelationId, command: str) -> None:
    intake = service.acceptor.begin(user="alice", correlation_id=correlation_id, single=False)
    try:
        await intake.add(JobSpec(command=command), BatchOptions())
        await intake.commit()
    except BaseException:
        intake.abort()
        raise


def stored(service: Service, correlation_id: CorrelationId) -> BatchView:
    return FinishedBatch(service.layout.finished("alice", correlation_id))


@pytest.mark.parametrize("command", [SMALL, LARGE], ids=["small", "large"])
async def test_the_folder_that_a_failed_submission_left_does_not_stand_in_the_way_of_the_next(
    service: Service, command: str
) -> None:
    correlation_id = CorrelationId.make(service.acceptor.clock_ns() // 1_000_000)
    left = Path(service.layout.active(correlation_id))
    left.mkdir(parents=True)
    (left / BATCH).write_bytes(b'{"v":1,"corr')
    await submit(service, correlation_id, command)
    await service.quiet()
    assert stored(service, correlation_id).counts() == {JobState.SUCCEEDED: 1}


@pytest.mark.parametrize("call", ["make_folder", "create", "sync"])
async def test_a_submission_whose_first_write_fails_leaves_nothing_and_may_come_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    correlation_id = CorrelationId.make(service.acceptor.clock_ns() // 1_000_000)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(service.ledger.disk, call, fail)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            await submit(service, correlation_id, LARGE)
    async with asyncio.timeout(30):
        while Path(service.layout.active(correlation_id)).exists():
            await asyncio.sleep(0.001)
    await submit(service, correlation_id, LARGE)
    await service.quiet()
    assert stored(service, correlation_id).counts() == {JobState.SUCCEEDED: 1}
