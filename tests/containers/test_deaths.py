"""The crash table for containers, row by row: what is lost when a container dies, is stopped, replaced or upgraded."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness import compose
from tests.harness.compose import Stack, docker
from tests.harness.service import Api
from tests.harness.wait import until

pytestmark = pytest.mark.engine
HOSTILE = Path(__file__).parents[1] / "harness" / "hostile.py"
COUNT = "for i in $(seq 150); do echo line $i; sleep 0.1; done"
COUNTED = b"".join(b"line %d\n" % i for i in range(1, 151))
STOP_SECONDS = 25  # an executor takes some; the engine would kill it after 30


def running_job(api: Api, request: str | schedule_pb2.JobRequest) -> str:
    batch = api.submit(request)
    until(lambda: api.get(batch).counts.running == 1, "a running job")
    return batch


def hostile(path: str = "/run/jobworker/executor.sock") -> schedule_pb2.JobRequest:
    return schedule_pb2.JobRequest(argv=["python3", "-", path], stdin=HOSTILE.read_bytes())


def recreate_server(stack: Stack) -> None:
    """kill -9, and another container in its place."""
    docker("rm", "--force", stack.container("server"))
    stack.up()


def test_a_server_container_that_is_killed_and_recreated_loses_nothing_even_among_hostile_jobs(stack: Stack) -> None:
    api = stack.api()
    executor = stack.container("executor")
    attacker = running_job(api, hostile())
    batch = running_job(api, COUNT)
    queued = api.submit(*["sleep 1; echo late"] * 6, batch=job_pb2.BatchOptions(parallelism=1))
    for _ in range(2):
        recreate_server(stack)
        assert "epoch=" + "e" * 32 not in stack.logs("server")
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert api.log(batch) == COUNTED
    assert api.wait(queued).counts.succeeded == 6
    assert stack.container("executor") == executor
    api.cancel(attacker)
    api.wait(attacker)
    log = api.log(attacker)
    assert b"connected" in log
    assert b"TAKEN" not in log


def test_an_executor_that_is_killed_loses_its_jobs_and_the_next_one_works(stack: Stack) -> None:
    api = stack.api()
    batch = running_job(api, "sleep 1000")
    attacker = running_job(api, hostile())
    before = stack.logs("server").count("executor attached")
    # As the kernel kills it when memory ends: the engine then starts it again.
    os.kill(stack.inspect("executor")["State"]["Pid"], signal.SIGKILL)
    stack.attached(before + 1)
    for lost in (batch, attacker):
        (job,) = api.jobs(lost)
        assert (job.state, job.end_reason) == (job_pb2.JOB_STATE_LOST, job_pb2.END_REASON_EXECUTOR_LOST)
    assert "epoch=" + "e" * 32 not in stack.logs("server")
    assert api.wait(api.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED


def test_docker_kill_of_the_executor_loses_its_jobs(stack: Stack) -> None:
    api = stack.api()
    batch = running_job(api, "sleep 1000")
    before = stack.logs("server").count("executor attached")
    docker("kill", stack.container("executor"))
    docker("start", stack.container("executor"))
    stack.attached(before + 1)
    assert api.jobs(batch)[0].state == job_pb2.JOB_STATE_LOST


def test_docker_stop_of_the_executor_ends_its_jobs_and_tells_so(stack: Stack) -> None:
    api = stack.api()
    batch = running_job(api, "echo begun; exec sleep 1000")
    queued = api.submit("echo later", batch=job_pb2.BatchOptions(parallelism=1))
    api.wait(queued)
    began = time.monotonic()
    docker("stop", "--time", "30", stack.container("executor"))
    assert time.monotonic() - began < STOP_SECONDS  # or it was killed at the end of its time
    assert stack.inspect("executor")["State"]["ExitCode"] == 0
    (job,) = api.jobs(batch)
    assert (job.state, job.end_reason) == (job_pb2.JOB_STATE_FAILED, job_pb2.END_REASON_INTERRUPTED)
    assert api.log(batch) == b"begun\n"
    waiting = api.submit("echo served later")
    stack.compose("start", "executor")
    assert api.wait(waiting).state == job_pb2.BATCH_STATE_SUCCEEDED


def test_docker_stop_of_the_server_is_clean_and_leaves_jobs_alone(stack: Stack) -> None:
    api = stack.api()
    batch = running_job(api, "sleep 3; echo done")
    docker("stop", "--time", "30", stack.container("server"))
    assert stack.inspect("server")["State"]["ExitCode"] == 0
    stack.compose("start", "server")
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert api.log(batch) == b"done\n"


def test_an_upgrade_replaces_the_server_alone_and_jobs_run_on(stack: Stack, newer_version: str) -> None:
    api = stack.api()
    assert "0.1.0" in version(stack)
    executor, server = stack.container("executor"), stack.container("server")
    batch = running_job(api, COUNT)
    old, stack.tag = stack.tag, newer_version
    try:
        stack.up()
        assert stack.container("server") != server
        assert stack.container("executor") == executor
        assert "9.9.9" in version(stack)
        assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
        assert api.log(batch) == COUNTED
    finally:
        stack.tag = old
    stack.up()
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED


def version(stack: Stack) -> str:
    script = "import importlib.metadata as m; print(m.version('jobworker'))"
    return stack.execute("server", "/opt/jobworker/bin/python", "-c", script)


def test_down_and_up_again_keeps_data_and_keys_and_tells_what_was_cut(stack: Stack) -> None:
    api = stack.api()
    done = api.submit("echo kept")
    api.wait(done)
    cut = running_job(api, "exec sleep 1000")
    authority = (stack.bundle() / "ca.crt").read_bytes()
    stack.compose("down")
    assert stack.container("server") == ""
    stack.up()
    shutil.rmtree(stack.bundle())
    assert (stack.bundle() / "ca.crt").read_bytes() == authority
    again = stack.api()
    assert again.log(done) == b"kept\n"
    (job,) = again.jobs(cut)
    assert (job.state, job.end_reason) == (job_pb2.JOB_STATE_FAILED, job_pb2.END_REASON_INTERRUPTED)


def test_a_greedy_job_dies_of_its_memory_and_the_executor_and_its_neighbours_do_not(
    images: str, tmp_path: Path
) -> None:
    with compose.stack(tmp_path, images, JOBWORKER_JOBS_MEMORY="128m") as small:
        api = small.api()
        neighbour = running_job(api, "sleep 1000")
        pid = small.inspect("executor")["State"]["Pid"]
        greedy = api.submit(schedule_pb2.JobRequest(argv=["python3", "-c", "x = bytearray(1 << 30); print(len(x))"]))
        assert api.wait(greedy).state == job_pb2.BATCH_STATE_FAILED
        (job,) = api.jobs(greedy)
        assert job.signal == signal.SIGKILL
        assert job.end_reason in (job_pb2.END_REASON_MEMORY, job_pb2.END_REASON_SIGNALLED)
        assert small.inspect("executor")["State"]["Pid"] == pid
        assert api.get(neighbour).counts.running == 1


BOMB = """
import os, signal, time
end = time.monotonic() + 60  # whatever happens, it ends
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_a_fork_bomb_ends_alone_and_another_users_jobs_run_on(images: str, tmp_path: Path) -> None:
    with compose.stack(tmp_path, images, JOBWORKER_JOBS_PIDS="512") as small:
        admin = small.api()
        alice = other_user(small, "alice")
        before = running_job(alice, "sleep 1000")
        bomb = admin.submit(schedule_pb2.JobRequest(argv=["python3", "-c", BOMB]))
        until(lambda: admin.get(bomb).counts.running == 0 or processes(small) > 100, "many processes, or their end")
        during = alice.submit("echo there was room")
        assert admin.wait(bomb).state == job_pb2.BATCH_STATE_FAILED
        (job,) = admin.jobs(bomb)
        assert job.end_reason == job_pb2.END_REASON_PROCESSES
        assert alice.wait(during).state == job_pb2.BATCH_STATE_SUCCEEDED
        assert alice.log(during) == b"there was room\n"
        assert alice.get(before).counts.running == 1
        alice.close()


def processes(stack: Stack) -> int:
    """In the executor's container, as its engine counts them: nothing of it runs in there."""
    listed = docker("top", stack.container("executor"), "-eo", "pid", check=False)
    return len(listed.splitlines())


def other_user(stack: Stack, name: str) -> Api:
    stack.compose(
        "run", "--rm", "--no-deps", "--entrypoint", "jobpki", "pki", "issue", name, "--role", "operator",
        "--dir", "/etc/jobworker/pki",
    )  # fmt: skip
    bundle = stack.folder / name
    stack.compose("cp", f"server:/etc/jobworker/pki/clients/{name}", str(bundle))
    api = Api(stack.port, bundle)
    api.login(name, (bundle / "password").read_text().strip())
    return api
