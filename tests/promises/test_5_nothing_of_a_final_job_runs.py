"""When a job is final nothing of it runs; the exit code is the first process's."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Api
from tests.harness.wait import processes_of, until

DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
if sys.argv[2] == "quiet":
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2): os.dup2(null, fd)
open(sys.argv[1], "w").close()
time.sleep(600)
"""


def marker(tmp_path: Path) -> str:
    """An argument that names this test's processes."""
    return f"--of={tmp_path.name}-{tmp_path.parent.name}"


@pytest.mark.parametrize("output", ["quiet", "loud"])
def test_a_daemon_that_forked_twice_in_a_session_of_its_own_ends_with_its_job(
    alice: Api, scratch: Path, output: str
) -> None:
    up = scratch / "up"
    script = scratch / "daemon.py"
    script.write_text(DAEMON)
    mark = marker(scratch)
    batch = alice.submit(f"python3 {script} {up} {output} {mark}; until [ -e {up} ]; do sleep 0.01; done; exit 4")
    alice.wait(batch)
    assert processes_of(mark) == []
    assert alice.jobs(batch)[0].exit_code == 4
    assert up.exists()


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_grandchildren_that_ignore_sigterm_end_with_a_job_that_is_ended(alice: Api, scratch: Path, how: str) -> None:
    up = scratch / "up"
    script = scratch / "daemon.py"
    script.write_text(DAEMON)
    mark = marker(scratch)
    command = (
        f"trap '' TERM; python3 {script} {up} loud {mark}; (trap '' TERM; sh -c 'sleep 600 {mark}' {mark}); sleep 600"
    )
    job = schedule_pb2.JobRequest(command=command)
    if how == "timeout":
        job.timeout.FromMilliseconds(800)
    batch = alice.submit(job)
    until(up.exists, "the daemon")
    if how == "cancel":
        request = schedule_pb2.CancelBatchRequest(correlation_id=batch)
        request.grace.FromMilliseconds(200)
        alice.schedule.CancelBatch(request, **alice.call())
    final = alice.wait(batch)
    assert processes_of(mark) == []
    counts = final.counts
    assert (counts.cancelled, counts.timed_out) == ((1, 0) if how == "cancel" else (0, 1))
    assert alice.jobs(batch)[0].signal == 9


def test_a_background_grandchild_that_holds_the_output_ends_with_its_job(alice: Api, tmp_path: Path) -> None:
    mark = marker(tmp_path)
    batch = alice.submit(f"echo start; sh -c 'sleep 600; :' {mark} & exit 3")
    alice.wait(batch)
    assert processes_of(mark) == []
    assert alice.jobs(batch)[0].exit_code == 3
    assert alice.log(batch) == b"start\n"


def test_a_cancelled_job_may_end_in_its_own_way(alice: Api) -> None:
    batch = alice.submit("trap 'echo bye; exit 11' TERM; echo up; while :; do sleep 0.02; done")
    assert next(alice.follow(batch)).data == b"up\n"
    final = alice.cancel(batch)
    assert final.state == job_pb2.BATCH_STATE_CANCELLED
    job = alice.jobs(batch)[0]
    assert (job.state, job.exit_code) == (job_pb2.JOB_STATE_CANCELLED, 11)
    log = alice.log(batch)  # between them, some shells tell that their sleep was terminated
    assert log.startswith(b"up\n")
    assert log.endswith(b"bye\n")


def test_cancelling_is_idempotent_and_leaves_a_finished_batch_as_it_is(alice: Api) -> None:
    batch = alice.submit("true")
    done = alice.wait(batch)
    assert alice.cancel(batch) == done
    running = alice.submit("exec sleep 600", *["true"] * 20, batch=job_pb2.BatchOptions(parallelism=1))
    until(lambda: alice.get(running).counts.running, "it runs")
    first = alice.cancel(running)
    assert (first.counts.cancelled, first.counts.skipped) == (1, 20)
    assert alice.cancel(running) == first


def test_single_jobs_of_a_batch_can_be_cancelled(alice: Api) -> None:
    batch = alice.submit("exec sleep 600", "echo two", "echo three", batch=job_pb2.BatchOptions(parallelism=1))
    until(lambda: alice.get(batch).counts.running, "it runs")
    alice.cancel(batch, 1)
    alice.cancel(batch, 0)
    final = alice.wait(batch)
    assert (final.counts.cancelled, final.counts.skipped, final.counts.succeeded) == (1, 1, 1)
    assert alice.log(batch, 2) == b"three\n"


def test_fail_fast_ends_the_running_and_skips_the_waiting(alice: Api) -> None:
    options = job_pb2.BatchOptions(parallelism=2, fail_fast=True)
    batch = alice.submit("exec sleep 600", "sleep 0.1; exit 9", *["true"] * 10, batch=options)
    final = alice.wait(batch)
    assert (final.counts.cancelled, final.counts.failed, final.counts.skipped) == (1, 1, 10)
    jobs = alice.jobs(batch)
    assert jobs[0].end_reason == job_pb2.END_REASON_FAIL_FAST
    assert jobs[5].end_reason == job_pb2.END_REASON_FAIL_FAST


def test_a_job_with_a_timeout_that_ends_in_time_is_not_touched(alice: Api) -> None:
    job = schedule_pb2.JobRequest(command="echo ok")
    job.timeout.FromSeconds(60)
    assert alice.wait(alice.submit(job)).counts.succeeded == 1
