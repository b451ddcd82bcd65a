"""What is told of a job and a batch: times and usage, quick or not."""

from __future__ import annotations

import time

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Api


@pytest.mark.parametrize("command", ["true", "sleep 0.05"])
def test_times_lie_in_their_order(alice: Api, command: str) -> None:
    before = time.time_ns()
    name = alice.submit(command, command)
    batch = alice.wait(name)
    after = time.time_ns()
    accepted, started, ended = (t.ToNanoseconds() for t in (batch.accepted_at, batch.started_at, batch.ended_at))
    assert before <= accepted <= started <= ended <= after
    for job in alice.jobs(name):
        assert started <= job.started_at.ToNanoseconds() <= job.ended_at.ToNanoseconds() <= ended


def test_usage_is_the_jobs_own_and_an_unknown_peak_is_not_a_number(alice: Api) -> None:
    code = "import time\nx = bytearray(64 << 20)\nt = time.process_time()\nwhile time.process_time() - t < 0.2: pass"
    name = alice.submit(schedule_pb2.JobRequest(argv=["/usr/bin/env", "python3", "-c", code]), "true")
    alice.wait(name)
    busy, idle = alice.jobs(name)
    assert busy.usage.user_time.ToNanoseconds() + busy.usage.system_time.ToNanoseconds() >= 200_000_000
    assert 64 << 20 < busy.usage.peak_memory_bytes < 512 << 20
    # What vfork(2) leaves behind is the executor's own peak: nothing is known of so small a job.
    assert not idle.usage.HasField("peak_memory_bytes") or idle.usage.peak_memory_bytes > 0
    assert idle.state == job_pb2.JOB_STATE_SUCCEEDED
