"""A data folder of the version before the commit log, as it was when its machine went down, is taken over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobworker.server.model import JobState
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import Layout
from jobworker.server.store.recovery import recover
from jobworker.v1 import job_pb2
from tests.harness.service import running
from tests.harness.wait import until

BEFORE = Path(__file__).parents[1] / "store" / "before_commit_log"
FINISHED = "01a22e75-154b-7cb0-aaf6-46b3affad50e"
# Four jobs: one had failed, one ran, one was ordered ahead of its turn, one had been cancelled.
UNFINISHED = "01a22e75-1568-7fc6-8c5b-c45bbe2c10b7"
EPOCH = "c4fee40befe7a7f520e2311783b5e663"
BOOT = "6f87680b-728a-41ea-b5e6-41b4d317f5ba"


def copy(place: Path) -> Path:
    shutil.copytree(BEFORE, place)
    for folder, _, names in os.walk(place):
        os.chmod(folder, 0o700)
        for name in names:
            os.chmod(f"{folder}/{name}", 0o600)
    return place


@pytest.mark.parametrize("boot", [BOOT, "another"])
def test_what_the_version_before_recorded_is_read(tmp_path: Path, boot: str) -> None:
    layout = Layout(copy(tmp_path / "data"))
    os.close(layout.prepare())
    problems: list[str] = []
    found = recover(layout=layout, disk=Disk(), boot=boot, report=lambda _path, what: problems.append(what))
    (batch,) = found.batches
    assert problems == []
    assert [batch.job_state(index) for index in range(4)] == [
        JobState.FAILED,
        JobState.RUNNING,
        JobState.QUEUED,
        JobState.SKIPPED,
    ]
    assert batch.recorded.running == {1: EPOCH, 2: EPOCH}
    assert batch.recorded.next_jobs(4) == ()
    # On the life of the machine that wrote it, the executor may still live.
    assert [index for _, index in found.lost] == ([] if boot == BOOT else [1, 2])


def test_a_service_goes_on_with_the_data_of_the_version_before(tmp_path: Path) -> None:
    copy(tmp_path / "service" / "data")
    with running(tmp_path / "service") as service:
        api = service.api()
        assert api.log(FINISHED) == b"finished before\n"
        batch = api.wait(UNFINISHED)
        assert (batch.counts.failed, batch.counts.lost, batch.counts.skipped) == (1, 2, 1)
        first, second, third, fourth = api.jobs(UNFINISHED)
        assert (first.exit_code, api.log(UNFINISHED, 0)) == (3, b"first\n")
        assert (second.state, api.log(UNFINISHED, 1)) == (job_pb2.JOB_STATE_LOST, b"second\n")
        assert (third.state, fourth.state) == (job_pb2.JOB_STATE_LOST, job_pb2.JOB_STATE_SKIPPED)
        until(lambda: not any((service.data / "active").iterdir()), "it lies with the finished ones")
        service.kill_server()
        assert api.get(UNFINISHED).state == batch.state
        assert api.wait(api.submit("true")).counts.succeeded == 1
