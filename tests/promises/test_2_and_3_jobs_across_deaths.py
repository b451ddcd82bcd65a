"""A job is started at most once. Each job ends in exactly one final state, with exit code or signal."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path

from jobworker.v1 import job_pb2
from tests.harness.service import Service
from tests.harness.wait import alive, children, until

BATCH = 600


def test_killing_the_server_at_random_points_loses_no_job_no_exit_and_no_byte_and_runs_nothing_twice(
    service: Service, scratch: Path
) -> None:
    ran = scratch / "ran"
    api = service.api()
    lines = 40
    commands = [
        f"echo {i} >> {ran}; for n in $(seq {lines}); do echo {i} line $n; done; sleep 0.0{i % 7}; exit {i % 256}"
        for i in range(BATCH)
    ]
    batch = api.submit(*commands, batch=job_pb2.BatchOptions(parallelism=8))
    done = threading.Event()
    dice = random.Random(7)

    def killer() -> None:
        while not done.wait(dice.uniform(0.05, 0.9)):
            service.kill_server()
            service.ready()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        until(lambda: ran.exists() and len(ran.read_text().split()) >= BATCH * 0.9, "most have run", 120)
    finally:
        done.set()
        thread.join()
    final = api.wait(batch, 120)
    assert Counter(ran.read_text().split()) == Counter(str(i) for i in range(BATCH))
    assert final.counts.succeeded == sum(1 for i in range(BATCH) if i % 256 == 0)
    assert final.counts.succeeded + final.counts.failed == BATCH
    for job in api.jobs(batch):
        assert job.WhichOneof("outcome") == "exit_code"
        assert job.exit_code == job.index % 256
        assert job.exit_source == job_pb2.EXIT_SOURCE_WAITED
    for index in range(0, BATCH, 13):
        assert api.log(batch, index).decode() == "".join(f"{index} line {n}\n" for n in range(1, lines + 1))


def test_a_running_job_never_notices_that_the_server_was_killed(service: Service) -> None:
    api = service.api()
    batch = api.submit("for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.1; done; exit 5")
    until(lambda: api.get(batch).counts.running, "it runs")
    service.kill_server()
    service.kill_server()
    api.wait(batch)
    job = api.jobs(batch)[0]
    assert (job.state, job.exit_code) == (job_pb2.JOB_STATE_FAILED, 5)
    assert api.log(batch) == b"".join(b"%d\n" % i for i in range(1, 11))


def test_a_job_that_ended_while_no_server_was_there_is_told_by_the_next(service: Service, scratch: Path) -> None:
    api = service.api()
    ended = scratch / "ended"
    batch = api.submit(f"sleep 0.3; echo bye; touch {ended}; exit 9", "kill -KILL $$", "exit 0")
    until(lambda: api.get(batch).counts.running, "it runs")
    # Stopped, not dead: its supervisor starts no other until it is killed, well after the jobs' ends.
    server = service.child("server")
    os.kill(server, signal.SIGSTOP)
    until(ended.exists, "the job's end")
    service.kill_server()
    final = api.wait(batch)
    jobs = api.jobs(batch)
    assert (final.counts.failed, final.counts.succeeded) == (2, 1)
    assert jobs[0].exit_code == 9
    assert jobs[1].signal == signal.SIGKILL
    assert jobs[1].end_reason == job_pb2.END_REASON_SIGNALLED
    assert api.log(batch, 0) == b"bye\n"


def test_when_the_executor_dies_its_jobs_die_and_are_lost_and_the_queued_ones_run_on_the_next(
    service: Service, scratch: Path
) -> None:
    api = service.api()
    started = scratch / "started"
    sleeper = f"echo $$ >> {started}; exec sleep 1234567"
    batch = api.submit(sleeper, sleeper, "echo later", batch=job_pb2.BatchOptions(parallelism=2))
    until(lambda: api.get(batch).counts.running == 2 and len(started.read_text().split()) == 2, "both run")
    init = service.child("executor")
    inner = children(init)
    jobs = [p for child in inner for p in children(child)]
    assert len(jobs) == 2
    os.kill(inner[0], signal.SIGKILL)
    final = api.wait(batch)
    assert (final.counts.lost, final.counts.succeeded) == (2, 1)
    for pid in jobs:
        until(lambda pid=pid: not alive(pid), "the jobs' end")
    lost = api.jobs(batch)[0]
    assert lost.end_reason == job_pb2.END_REASON_EXECUTOR_LOST
    assert lost.WhichOneof("outcome") is None
    assert lost.exit_source == job_pb2.EXIT_SOURCE_LOST


def test_a_job_that_an_executor_which_died_had_not_started_is_not_lost_and_every_job_starts_once(
    service: Service, scratch: Path
) -> None:
    api = service.api()
    started, gate = scratch / "started", scratch / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.05; done"
    running = api.submit(*[f"echo r{n} >> {started}; {wait}" for n in range(4)])
    until(lambda: started.exists() and len(started.read_text().split()) == 4, "four run")
    inner = children(service.child("executor"))[0]
    os.kill(inner, signal.SIGSTOP)
    ordered = api.submit(*[f"echo o{n} >> {started}" for n in range(20)], batch=job_pb2.BatchOptions(parallelism=6))
    folder = service.data / "active" / ordered
    until(lambda: len(list(folder.rglob("*.log"))) == 6, "six are ordered")
    os.kill(inner, signal.SIGKILL)
    gate.touch()
    assert api.wait(running).counts.lost == 4
    final = api.wait(ordered)
    assert (final.counts.lost, final.counts.succeeded) == (0, 20)
    expected = [f"r{n}" for n in range(4)] + [f"o{n}" for n in range(20)]
    assert Counter(started.read_text().split()) == Counter(expected)


def test_killing_the_whole_service_leaves_no_job_and_the_next_life_tells_what_became_of_each(
    service: Service, scratch: Path
) -> None:
    api = service.api()
    batch = api.submit(
        "exec sleep 7654321", f"echo again >> {scratch / 'ran'}", batch=job_pb2.BatchOptions(parallelism=1)
    )
    until(lambda: api.get(batch).counts.running == 1, "it runs")
    init = service.child("executor")
    jobs = [p for child in children(init) for p in children(child)]
    family = [service.child("server"), init, *children(init), *jobs]
    os.kill(service.pid, signal.SIGKILL)
    for pid in family:
        until(lambda pid=pid: not alive(pid), f"the end of {pid}")
    service._process.wait()
    service.start()
    final = api.wait(batch)
    # The server ends a moment after its supervisor: it may still have been told how the first one was ended.
    cut = api.jobs(batch)[0]
    assert (cut.state, cut.end_reason) in (
        (job_pb2.JOB_STATE_LOST, job_pb2.END_REASON_EXECUTOR_LOST),
        (job_pb2.JOB_STATE_FAILED, job_pb2.END_REASON_INTERRUPTED),
    )
    assert final.counts.succeeded == 1
    assert (scratch / "ran").read_text() == "again\n"


def test_every_exit_status_is_told_as_it_was(service: Service) -> None:
    api = service.api()
    exits = api.submit(*[f"exit {n}" for n in range(256)], batch=job_pb2.BatchOptions(parallelism=8))
    deadly = [1, 2, 3, 6, 9, 10, 12, 13, 14, 15]
    kills = api.submit(*[f"kill -{n} $$" for n in deadly], batch=job_pb2.BatchOptions(parallelism=4))
    service.kill_server()
    api.wait(exits)
    api.wait(kills)
    assert [job.exit_code for job in api.jobs(exits)] == list(range(256))
    assert [job.signal for job in api.jobs(kills)] == deadly


def test_a_stopped_service_ends_its_jobs_and_says_so(service: Service) -> None:
    api = service.api()
    batch = api.submit("trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done", "exec sleep 999")
    follower = api.follow(batch, job_index=[0])
    assert next(follower).data == b"ready\n"
    until(lambda: api.get(batch).counts.running == 2, "both run")
    assert service.stop() == 0
    service.start()
    again = service.api()
    final = again.wait(batch)
    assert final.counts.failed == 2
    jobs = again.jobs(batch)
    assert {j.end_reason for j in jobs} == {job_pb2.END_REASON_INTERRUPTED}
    assert jobs[0].exit_code == 3
    assert jobs[1].signal == signal.SIGTERM
    log = again.log(batch, 0)  # between them, some shells tell that their sleep was terminated
    assert log.startswith(b"ready\n")
    assert log.endswith(b"told\n")
