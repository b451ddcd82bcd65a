"""A full disk refuses new batches in words, and what runs goes on once there is room. The disk is a small tmpfs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.admin import Admin
from tests.harness.fill import fill
from tests.harness.service import Service, running
from tests.harness.wait import until

pytestmark = pytest.mark.root
MIB = 1 << 20
JOBS = 60


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Service]:
    data = tmp_path / "service" / "data"
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={24 * MIB}", "tmpfs", str(data)], check=True)
    try:
        with running(tmp_path / "service", LIMITS__FREE_DISK_BYTES="0") as service:
            yield service
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


def test_a_batch_for_which_there_is_no_room_is_refused_whole(small: Service) -> None:
    api = small.api()
    filler = small.data / "filler"
    fill(filler)
    with pytest.raises(grpc.RpcError) as refused:
        api.submit(*["true " + "x" * 2000] * 200)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not any((small.data / "active").iterdir())
    filler.unlink()
    assert api.wait(api.submit("echo fine")).counts.succeeded == 1


def test_ends_are_recorded_on_a_full_disk_and_files_are_completed_when_there_is_room(
    small: Service, scratch: Path
) -> None:
    api = small.api()
    go = scratch / "go"
    command = f"until [ -e {go} ]; do sleep 0.05; done; exit 7"
    # Enough that their ends need more than what is left of the last page of the batch's results.
    batch = api.submit(*[command] * JOBS, batch=job_pb2.BatchOptions(parallelism=JOBS))
    until(lambda: api.get(batch).counts.running == JOBS, "they run")
    filler = small.data / "filler"
    fill(filler)
    go.touch()
    # The commit log has room of its own.
    assert api.wait(batch).counts.failed == JOBS
    until(lambda: "a batch's files cannot be written yet" in small.output(), "the full disk is met")
    assert {j.exit_code for j in api.jobs(batch)} == {7}
    small.kill_server()
    assert {j.exit_code for j in api.jobs(batch)} == {7}
    # A start needs a new segment of the log.
    admin = Admin(small)
    assert ["nothing can be recorded" in problem for problem in admin.status().problems] == [True]
    with pytest.raises(grpc.RpcError) as refused:
        api.submit("true")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    filler.unlink()
    until(lambda: not admin.status().problems, "it goes on by itself")
    until(lambda: not any((small.data / "active").iterdir()), "its folder is complete, and moved")
    assert {j.exit_code for j in api.jobs(batch)} == {7}


def test_a_job_that_fills_the_disk_waits_for_room_and_loses_nothing_when_it_comes(
    small: Service, tmp_path: Path
) -> None:
    api = small.api()
    filler = small.data / "filler"
    filler.write_bytes(bytes(12 * MIB))
    batch = api.submit(schedule_pb2.JobRequest(command=f"head -c {12 * MIB} /dev/zero; echo done"))
    until(lambda: sum(p.stat().st_size for p in small.data.glob("active/*/0.log")) > 6 * MIB, "the disk is full")
    filler.unlink()
    assert api.wait(batch).counts.succeeded == 1
    assert api.jobs(batch)[0].logs[0].bytes == 12 * MIB + 5
    assert api.log(batch)[-5:] == b"done\n"
    assert api.jobs(batch)[0].end_reason == job_pb2.END_REASON_EXITED
