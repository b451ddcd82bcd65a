"""The clock of the day is set while batches run: what is shown of them stays in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2
from tests.harness.admin import Admin
from tests.harness.clockshift import ClockShift, shifted_service
from tests.harness.service import Api, Service
from tests.harness.wait import until

HOUR = 3600.0


@pytest.fixture
def service(tmp_path: Path, clock: ClockShift) -> Iterator[Service]:
    """One whose clocks jump."""
    with shifted_service(tmp_path / "service", clock) as made:
        yield made


def in_order(api: Api, name: str) -> None:
    """No time of a batch or of its jobs is before one that came earlier."""
    batch = api.get(name)
    accepted, started, ended = (t.ToNanoseconds() for t in (batch.accepted_at, batch.started_at, batch.ended_at))
    assert accepted <= started <= ended
    for job in api.jobs(name):
        assert job.ended_at.ToNanoseconds() >= accepted
        if job.HasField("started_at"):
            assert accepted <= job.started_at.ToNanoseconds() < job.ended_at.ToNanoseconds() <= ended


@pytest.mark.parametrize("hours", [-1, 1])
def test_no_batch_and_no_job_takes_less_than_nothing(
    service: Service, clock: ClockShift, scratch: Path, hours: int
) -> None:
    api = service.api()
    gate = scratch / "gate"
    job = f"until [ -e {gate} ]; do sleep 0.02; done"
    one = job_pb2.BatchOptions(parallelism=1)
    running = api.submit(job, "true", "false", "true", batch=job_pb2.BatchOptions(parallelism=1, fail_fast=True))
    filler = [api.submit(job, batch=one) for _ in range(3)]
    until(lambda: api.get(running).counts.running == 1, "it runs")
    clock.jump(hours * HOUR)
    api = service.api()
    cancelled = api.submit(job, job, batch=one)
    gate.touch()
    assert api.wait(running).counts.skipped == 1
    api.cancel(cancelled)
    for name in (running, *filler, cancelled):
        api.wait(name)
    in_order(api, running)
    for name in filler:
        in_order(api, name)


def test_the_uptime_is_by_a_clock_that_nobody_sets(service: Service, clock: ClockShift) -> None:
    clock.jump(-24 * HOUR)
    before = Admin(service).status().uptime.ToNanoseconds()
    assert before > 0
    clock.jump(48 * HOUR)
    assert Admin(service).status().uptime.ToNanoseconds() < before + 12 * HOUR * 1e9
