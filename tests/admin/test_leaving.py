"""`jobworker drain`: a server that is about to end with its executor lets jobs end, and interrupts what is left."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2
from tests.harness.admin import Admin
from tests.harness.refusal import refused
from tests.harness.service import Service
from tests.harness.wait import until

ONE = job_pb2.BatchOptions(parallelism=1)


@pytest.fixture
def admin(service: Service) -> Admin:
    return Admin(service)


def drain(service: Service, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobworker.server.cli", "drain", "--seconds", str(seconds)]
    return subprocess.Popen(
        command, env=service.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_running_jobs_end_and_queued_ones_wait_for_the_next_server(
    service: Service, admin: Admin, scratch: Path
) -> None:
    alice, gate = service.api(), scratch / "gate"
    batch = alice.submit(f"until [ -e {gate} ]; do sleep 0.02; done", "true", batch=ONE)
    until(lambda: alice.get(batch).counts.running == 1, "the first runs")
    asked = drain(service, 600)
    until(lambda: admin.state() == "DRAINING", "it drains")
    assert refused(lambda: alice.submit("true")).name == "UNAVAILABLE"
    until(lambda: not admin.serving(), "health says so")
    assert admin.serving("")
    gate.touch()
    assert asked.communicate(timeout=60) == ("drained; 0 jobs were interrupted\n", "")
    assert asked.returncode == 0
    assert alice.get(batch).counts.queued == 1
    service.kill_server()
    assert alice.wait(batch).counts.succeeded == 2


def test_jobs_that_outlast_it_are_interrupted_and_what_they_say_is_kept(service: Service, admin: Admin) -> None:
    alice = service.api()
    batch = alice.submit("trap 'echo told; exit 9' TERM; echo on; while :; do sleep 0.05; done", "true", batch=ONE)
    until(lambda: alice.get(batch).counts.running == 1, "the first runs")
    until(lambda: b"on" in b"".join(c.data for c in alice.follow(batch, job_index=[0], no_follow=True)), "its output")
    assert drain(service, 0).communicate(timeout=60) == ("drained; 1 jobs were interrupted\n", "")
    assert alice.get(batch).counts.queued == 1
    service.kill_server()
    alice.wait(batch)
    cut, after = alice.jobs(batch)
    assert (cut.state, cut.end_reason, cut.exit_code) == (
        job_pb2.JOB_STATE_FAILED, job_pb2.END_REASON_INTERRUPTED, 9,
    )  # fmt: skip
    assert after.state == job_pb2.JOB_STATE_SUCCEEDED
    assert alice.log(batch).splitlines()[-1] == b"told"


def test_an_administrator_may_have_it_take_work_again(service: Service, admin: Admin) -> None:
    assert drain(service, 1).communicate(timeout=60)[1] == ""
    assert admin.state() == "STOPPED"
    assert not admin.serving()
    admin.start()
    assert admin.serving()
    alice = service.api()
    assert alice.wait(alice.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED


def test_only_the_servers_user_may_tell_it(service: Service) -> None:
    assert stat.S_IMODE((service.folder / "run/control.sock").stat().st_mode) == 0o600


def test_without_a_server_it_fails_and_says_so(service: Service) -> None:
    service.stop()
    asked = drain(service, 1)
    _, said = asked.communicate(timeout=60)
    assert asked.returncode == 1
    assert "control.sock" in said
