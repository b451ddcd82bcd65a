"""Long work for one client, while others want answers: they get them, and what is promised of jobs holds as ever."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.server.store.commitlog import segments
from jobworker.server.store.frames import group_frame, results_frame
from jobworker.v1 import admin_pb2, admin_pb2_grpc, job_pb2, query_pb2, schedule_pb2
from tests.harness.refusal import refused
from tests.harness.service import Api, Service, running
from tests.harness.wait import alive, until

J = schedule_pb2.JobRequest
JOBS = 100_000
MESSAGE_JOBS = 10_000


def submit_many(api: Api, command: str = "true", *, jobs: int = JOBS, **options: object) -> str:
    """A batch of which the first job runs until it is cancelled, and the others wait."""

    def messages() -> Iterator[J]:
        for begin in range(0, jobs, MESSAGE_JOBS):
            message = J(jobs=[J(command=command)] * min(MESSAGE_JOBS, jobs - begin))
            if not begin:
                message.jobs[0].command = "exec sleep 600"
                message.batch.CopyFrom(job_pb2.BatchOptions(parallelism=1, **options))
            yield message

    name: str = api.schedule.ExecuteJobs(messages(), **api.call()).correlation_id
    until(lambda: api.get(name).counts.running == 1, "the first job runs")
    return name


# Were all of some work done at one go, this many calls of another client could be answered from its beginning to its
# end: one before the work, one after it, and one on the way.
AT_ONE_GO = 3


def answered_meanwhile(api: Api, work: Callable[[], object]) -> int:
    """How many calls of another client are answered from the beginning of some work to its end."""
    mine = api.submit("true")
    answered, done = 0, threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except grpc.RpcError:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.is_set():
        api.get(mine)
        answered += 1
    thread.join()
    assert not failed, failed
    return answered


def every_other(jobs: int = JOBS) -> range:
    """As scattered as jobs can be."""
    return range(1, jobs, 2)


def results_of(service: Service, name: str) -> Path:
    """Its results, once they say that the first job runs."""
    results = folder_of(service, name) / "results.jsonl"
    until(lambda: results.exists() and b'"k":"start"' in results.read_bytes(), "its folder says that it runs")
    return results


def ends_recorded(folder: Path) -> list[int]:
    """How many ends each job has in the batch's results."""
    with open(folder / "results.jsonl") as file:
        lines = [json.loads(line) for line in file]
    found: dict[int, int] = {}
    for line in lines:
        indexes = (
            range(line["from"], line["to"]) if line["k"] == "skip" else (line["job"],) if line["k"] == "end" else ()
        )
        for index in indexes:
            found[index] = found.get(index, 0) + 1
    return [found.get(index, 0) for index in range(max(found) + 1)]


def folder_of(service: Service, name: str) -> Path:
    active = service.data / "active" / name
    return active if active.exists() else next((service.data / "batches").glob(f"*/*/*/{name}"))


def test_other_clients_are_answered_while_scattered_jobs_are_cancelled(service: Service) -> None:
    api, other = service.api(), service.api("bob")
    name = submit_many(api)
    assert answered_meanwhile(other, lambda: api.cancel(name, *every_other())) > AT_ONE_GO
    counts = api.get(name).counts
    assert (counts.running, counts.skipped, counts.queued) == (1, JOBS // 2, JOBS // 2 - 1)
    final = api.cancel(name)
    assert (final.counts.cancelled, final.counts.skipped) == (1, JOBS - 1)
    assert set(ends_recorded(folder_of(service, name))) == {1}
    assert len(ends_recorded(folder_of(service, name))) == JOBS


def test_cancels_that_overlap_end_each_job_once(service: Service) -> None:
    api = service.api()
    name = submit_many(api, jobs=40_000)
    request = schedule_pb2.CancelBatchRequest
    calls = [
        api.schedule.CancelBatch.future(request(correlation_id=name, job_index=some), **api.call())
        for some in (every_other(40_000), range(3, 40_000, 3), range(20_000, 25_000), [], every_other(40_000))
    ]
    for call in calls:
        call.result()
    assert api.wait(name).counts.skipped == 39_999
    recorded = ends_recorded(folder_of(service, name))
    assert (set(recorded), len(recorded)) == ({1}, 40_000)


def test_no_job_starts_behind_the_back_of_a_cancel_and_the_others_run_after_it(service: Service) -> None:
    api = service.api()
    name = submit_many(api, jobs=20_000)
    scattered = api.schedule.CancelBatch.future(
        schedule_pb2.CancelBatchRequest(correlation_id=name, job_index=every_other(20_000)), **api.call()
    )
    api.cancel(name, 0)  # its place is free from now on
    scattered.result()
    api.cancel(name, *range(400, 20_000))
    final = api.wait(name)
    assert (final.counts.cancelled, final.counts.succeeded) == (1, 199)
    started = [job.index for job in api.jobs(name) if job.HasField("started_at")]
    assert started == [0, *range(2, 400, 2)]


def test_a_client_that_leaves_does_not_end_its_cancel(service: Service) -> None:
    api, other = service.api(), service.api()
    name = submit_many(api)
    request = schedule_pb2.CancelBatchRequest(correlation_id=name, job_index=every_other())
    call = other.schedule.CancelBatch.future(request, **other.call())
    until(lambda: api.get(name).counts.skipped, "it has begun")
    call.cancel()
    until(lambda: api.get(name).counts.skipped == JOBS // 2, "it is done")


def test_a_server_killed_in_the_middle_of_a_cancel_has_each_job_skipped_once_or_queued(service: Service) -> None:
    api = service.api()
    name = submit_many(api)
    results = results_of(service, name)
    before = results.stat().st_size
    call = api.schedule.CancelBatch.future(
        schedule_pb2.CancelBatchRequest(correlation_id=name, job_index=every_other()), **api.call()
    )
    until(lambda: results.stat().st_size > before + 1000, "it has begun")
    service.kill_server()
    assert isinstance(call.exception(), grpc.RpcError)
    counts = api.get(name).counts
    assert counts.running == 1
    assert 0 < counts.skipped < JOBS // 2
    assert counts.queued == JOBS - 1 - counts.skipped
    final = api.cancel(name)
    assert (final.counts.cancelled, final.counts.skipped) == (1, JOBS - 1)
    recorded = ends_recorded(folder_of(service, name))
    assert (set(recorded), len(recorded)) == ({1}, JOBS)


def test_a_batch_that_fails_fast_does_so_although_its_server_died_right_after_the_failure(service: Service) -> None:
    api = service.api()
    name = submit_many(api, jobs=1000, fail_fast=True)
    results = results_of(service, name)
    os.kill(service.pid, signal.SIGSTOP)
    server = service.child("server")
    os.kill(server, signal.SIGKILL)
    until(lambda: not alive(server), "its end")
    # The end of the first one is what such a server would have recorded last.
    end = {
        "k": "end",
        "job": 0,
        "state": 4,
        "reason": 1,
        "code": 1,
        "waited": True,
        "started": 1,
        "ended": 2,
        "logs": [0],
    }
    line = json.dumps(end, separators=(",", ":")).encode() + b"\n"
    frame = results_frame(name, results.stat().st_size, line)
    segment = Path(segments(str(service.data / "commit"))[-1][1])
    segment.write_bytes(segment.read_bytes().rstrip(b"\0") + group_frame(len(frame)) + frame)
    os.kill(service.pid, signal.SIGCONT)
    final = api.wait(name)
    assert (final.counts.failed, final.counts.skipped) == (1, 999)
    others = api.jobs(name)[1:]
    assert {job.end_reason for job in others} == {job_pb2.END_REASON_FAIL_FAST}
    assert not any(job.HasField("started_at") for job in others)


def test_a_service_that_says_it_is_stopped_has_skipped_all_that_was_queued(service: Service) -> None:
    api, root = service.api(), service.api("admin")
    admin = admin_pb2_grpc.AdminServiceStub(root.channel)
    name = submit_many(api)
    api.cancel(name, *every_other())
    api.cancel(name, 0)
    admin.StopService(admin_pb2.StopServiceRequest(cancel_queued=True, kill=True), **root.call())
    states = admin_pb2.ServiceState
    until(
        lambda: admin.GetStatus(admin_pb2.GetStatusRequest(), **root.call()).state == states.SERVICE_STATE_STOPPED,
        "it is stopped",
    )
    counts = api.get(name).counts
    assert counts.queued == counts.running == 0
    assert counts.succeeded + counts.skipped + counts.cancelled == JOBS


def test_followers_of_a_batch_see_the_end_of_every_job_that_is_cancelled(service: Service) -> None:
    api = service.api()
    jobs = 20_000
    name = submit_many(api, jobs=jobs)
    some = api.follow(name, job_index=range(0, jobs, 7))
    everything = api.follow(name)
    threading.Timer(0.5, lambda: api.cancel(name)).start()  # whether they have come to the last job by then or not
    for stream, indexes in ((everything, range(jobs)), (some, range(0, jobs, 7))):
        assert sorted(c.job_index for c in stream if c.WhichOneof("payload") == "end") == list(indexes)


def test_others_are_answered_while_the_jobs_of_a_large_finished_batch_are_looked_for(service: Service) -> None:
    api, other = service.api(), service.api("bob")
    name = submit_many(api)
    api.cancel(name, *every_other())
    api.cancel(name)
    service.kill_server()  # nothing of it is in memory
    api.get(name)
    asked = query_pb2.SearchJobRequest(correlation_id=name, job_index=[JOBS - 1], omit_log=True)
    found: list[query_pb2.SearchJobResponse] = []
    answered = answered_meanwhile(other, lambda: found.extend(api.query.SearchJob(asked, **api.call())))
    assert found[-1].job.state == job_pb2.JOB_STATE_SKIPPED
    assert answered > AT_ONE_GO


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("JobScheduleService/ExecuteJob", b"\x5a\x00" * 2_000_000),
        ("JobScheduleService/ExecuteJob", b"\x12\x00" * 2_000_000),
        ("JobScheduleService/ExecuteJob", b"".join(b"\x1a\x07\x0a\x05%05x" % i for i in range(400_000))),
    ],
    ids=["empty jobs", "empty arguments", "variables"],
)
def test_others_are_answered_while_millions_of_fields_are_read(
    shared_service: Service, alice: Api, method: str, message: bytes
) -> None:
    other = shared_service.api("bob")

    def send() -> None:
        alice.channel.unary_unary(f"/jobworker.v1.{method}")(message, **alice.call())

    assert refused(send).name == "INVALID_ARGUMENT"
    assert answered_meanwhile(other, send) > AT_ONE_GO


def test_a_job_has_at_most_65536_arguments_and_variables(alice: Api) -> None:
    argv = ["true", *["x"] * 65_535]
    assert alice.wait(alice.submit(J(argv=argv))).counts.succeeded == 1
    assert refused(lambda: alice.submit(J(argv=[*argv, "x"]))).fields == ["jobs[0].argv"]
    assert refused(lambda: alice.submit(J(argv=argv, env={"A": "b"}))).fields == ["jobs[0].argv"]
    env = {f"V{i}": "" for i in range(65_537)}
    assert refused(lambda: alice.submit(J(command="true", env=env))).fields == ["jobs[0].env"]


def test_a_filter_of_thousands_of_states_is_refused(alice: Api) -> None:
    request = query_pb2.ListBatchesRequest(state=[1] * 101)
    assert refused(lambda: alice.query.ListBatches(request, **alice.call())).fields == ["state"]


def test_a_page_of_batches_with_large_labels_stays_below_what_clients_take(tmp_path: Path) -> None:
    labels = {f"{i:063}": "x" * 255 for i in range(64)}
    with running(tmp_path / "service") as service:
        api = service.api()
        names = [api.submit("true", batch=job_pb2.BatchOptions(labels=labels)) for _ in range(120)]
        listed: list[str] = []
        token, pages = "", 0
        while token or not pages:
            request = query_pb2.ListBatchesRequest(page_size=1000, page_token=token)
            page = api.query.ListBatches(request, **api.call())
            assert page.ByteSize() < 1.1 * (1 << 20)
            listed += [batch.correlation_id for batch in page.batches]
            token, pages = page.next_page_token, pages + 1
    assert pages > 1
    assert listed == sorted(names, reverse=True)
