"""The whole service within the limits of a usual login: jobs wait for what it lacks, and none fails for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Service
from tests.harness.wait import until

MANY = 500
USER = 61_235  # whose processes are these alone


@pytest.mark.parametrize("output", [job_pb2.OUTPUT_MODE_MERGED, job_pb2.OUTPUT_MODE_SEPARATE])
def test_500_jobs_at_once_wait_for_1024_descriptors_and_none_fails(
    tmp_path: Path, scratch: Path, output: job_pb2.OutputMode
) -> None:
    service = Service(tmp_path / "service")
    gate = scratch / "gate"
    os.mkfifo(gate)
    gate.chmod(0o644)
    opened = os.open(gate, os.O_RDWR)
    try:
        api = service.start(prefix=("prlimit", "--nofile=1024:1024")).api()
        command = f"echo out; read line < {gate}; echo err >&2"
        jobs = [schedule_pb2.JobRequest(command=command, output=output) for _ in range(MANY)]
        correlation_id = api.submit(*jobs, batch=job_pb2.BatchOptions(parallelism=MANY))
        until(lambda: "orders wait: the executor is short" in service.output(), "the shortage")
        os.write(opened, b"go\n" * MANY)
        batch = api.wait(correlation_id)
        assert batch.counts.succeeded == MANY, _problems(api.jobs(batch.correlation_id))
        assert api.wait(api.submit("true")).counts.succeeded == 1
    finally:
        os.close(opened)
        service.stop()


@pytest.fixture
def place() -> Iterator[Path]:
    """Where another user can go."""
    folder = Path(tempfile.mkdtemp(prefix="jobworker-test-", dir="/srv"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.root
def test_a_user_with_60_processes_runs_what_it_has_room_for_and_the_rest_waits(place: Path) -> None:
    service = Service(place / "service")
    service.make_pki()
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(service.folder)], check=True)
    prefix = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=+dac_read_search"]
    prefix += ["--ambient-caps=+dac_read_search", "prlimit", "--nproc=60:60"]
    try:
        api = service.start(prefix=prefix).api()
        batch = api.wait(
            api.submit(*["exec sleep 0.1"] * 200, batch=job_pb2.BatchOptions(parallelism=200)), seconds=120
        )
        assert batch.counts.succeeded == 200, _problems(api.jobs(batch.correlation_id))
    finally:
        service.stop()


def _problems(jobs: list[job_pb2.Job]) -> list[str]:
    return sorted({f"{job_pb2.JobState.Name(job.state)} {job.end_detail}" for job in jobs})
