"""StopService and StartService: nothing new is taken or started, and what there was is kept, ended or skipped."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import admin_pb2, job_pb2, schedule_pb2
from tests.harness.admin import Admin, duration, kill_server
from tests.harness.refusal import refused
from tests.harness.service import Api, Service
from tests.harness.wait import until

ONE = job_pb2.BatchOptions(parallelism=1)


@pytest.fixture
def admin(service: Service) -> Admin:
    return Admin(service)


def held(api: Api, scratch: Path, jobs: int = 3) -> tuple[str, Path]:
    """A batch whose first job runs until a file is there, and the file; the others wait for their turn."""
    gate = scratch / "gate"
    batch = api.submit(*[f"until [ -e {gate} ]; do sleep 0.02; done; echo done"] * jobs, batch=ONE)
    until(lambda: api.get(batch).counts.running == 1, "the first runs")
    return batch, gate


def counts(api: Api, batch: str) -> dict[str, int]:
    """Those that are not zero."""
    return {field.name: value for field, value in api.get(batch).counts.ListFields()}


def test_a_stopped_service_takes_nothing_starts_nothing_and_answers_everything(
    service: Service, admin: Admin, scratch: Path
) -> None:
    alice = service.api()
    batch, gate = held(alice, scratch)
    status = admin.stop()
    assert status.state == admin_pb2.SERVICE_STATE_DRAINING
    assert not status.HasField("drain_deadline")
    assert (admin.serving(), admin.serving(""), admin.serving("jobworker.v1.JobQueryService")) == (False, True, True)
    single = schedule_pb2.JobRequest(command="true")
    for submit in (lambda: alice.submit("true"), lambda: alice.schedule.ExecuteJob(single, **alice.call())):
        found = refused(submit)
        assert (found.name, found.retry_seconds) == ("UNAVAILABLE", 5)
        assert "drains" in found.message
    stream = alice.follow(batch, job_index=[0])
    gate.touch()
    assert b"".join(chunk.data for chunk in stream) == b"done\n"
    until(lambda: admin.state() == "STOPPED", "nothing runs")
    assert counts(alice, batch) == {"succeeded": 1, "queued": 2}
    found = refused(lambda: alice.submit("true"))
    assert (found.name, found.retry_seconds) == ("FAILED_PRECONDITION", None)
    assert "stopped" in found.message
    assert not [name for name in service.data.joinpath("active").iterdir() if name.name != batch]

    assert admin.start().state == admin_pb2.SERVICE_STATE_SERVING
    assert admin.serving()
    assert alice.wait(batch).counts.succeeded == 3
    assert alice.wait(alice.submit("true")).counts.succeeded == 1


def test_both_are_the_same_when_repeated(service: Service, admin: Admin) -> None:
    assert admin.start().state == admin_pb2.SERVICE_STATE_SERVING
    for _ in range(3):
        assert admin.stop(deadline_seconds=60).state == admin_pb2.SERVICE_STATE_STOPPED
    for _ in range(3):
        assert admin.start().state == admin_pb2.SERVICE_STATE_SERVING
    api = service.api()
    assert api.wait(api.submit("true")).counts.succeeded == 1


def test_a_deadline_cancels_what_still_runs_then_and_a_second_call_may_shorten_it(
    service: Service, admin: Admin
) -> None:
    alice = service.api()
    batch = alice.submit("exec sleep 600", "exec sleep 600", batch=ONE)
    until(lambda: alice.get(batch).counts.running == 1, "the first runs")
    far = admin.stop(deadline_seconds=600).drain_deadline
    assert admin.stop().drain_deadline == far
    assert admin.stop(deadline_seconds=3600).drain_deadline == far
    assert counts(alice, batch) == {"running": 1, "queued": 1}
    near = admin.stop(deadline_seconds=0.2).drain_deadline
    assert near.ToNanoseconds() < far.ToNanoseconds()
    until(lambda: admin.state() == "STOPPED", "it was cancelled")
    assert counts(alice, batch) == {"cancelled": 1, "queued": 1}
    admin.start()
    until(lambda: alice.get(batch).counts.running == 1, "the second runs")
    assert alice.cancel(batch).counts.cancelled == 2


def test_kill_cancels_at_once_and_cancel_queued_skips_what_waits(service: Service, admin: Admin) -> None:
    alice, bob = service.api("alice"), service.api("bob")
    batches = [(api, api.submit(*["exec sleep 600"] * 3, batch=ONE)) for api in (alice, bob)]
    for api, batch in batches:
        until(lambda api=api, batch=batch: api.get(batch).counts.running == 1, "it runs")  # type: ignore[misc]
    admin.stop(kill=True)
    until(lambda: admin.state() == "STOPPED", "they were cancelled")
    for api, batch in batches:
        assert counts(api, batch) == {"cancelled": 1, "queued": 2}
    admin.stop(cancel_queued=True)
    for api, batch in batches:
        assert api.wait(batch).state == job_pb2.BATCH_STATE_CANCELLED
        assert counts(api, batch) == {"cancelled": 1, "skipped": 2}
    assert admin.status().unfinished_batches == 0


def test_a_batch_that_was_on_its_way_in_is_refused_whole(service: Service, admin: Admin) -> None:
    alice = service.api()
    go = threading.Event()

    def jobs():  # type: ignore[no-untyped-def]
        yield schedule_pb2.JobRequest(command="true # " + "x" * 70_000)  # too much for memory: it goes to its file
        assert go.wait(60)
        yield schedule_pb2.JobRequest(command="true")

    call = alice.schedule.ExecuteJobs.future(jobs(), **alice.call())
    until(lambda: any((service.data / "active").iterdir()), "its first job has arrived")
    admin.stop()
    go.set()
    with pytest.raises(grpc.RpcError) as error:
        call.result()
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
    until(lambda: not any((service.data / "active").iterdir()), "nothing of it is left")


def test_a_repeated_submission_is_a_duplicate_also_while_stopped(service: Service, admin: Admin) -> None:
    alice = service.api()
    name = alice.submit("true")
    alice.wait(name)
    admin.stop()
    request = schedule_pb2.JobRequest(command="true")
    answer = alice.schedule.ExecuteJobs(iter([request]), **alice.call(metadata=[("x-correlation-id", name)]))
    assert answer.result == "DUPLICATE"


def test_it_stays_stopped_over_a_restart_and_starts_the_queued_jobs_when_told(
    service: Service, admin: Admin, scratch: Path
) -> None:
    alice = service.api()
    batch, gate = held(alice, scratch)
    admin.stop()
    kill_server(service, admin, alice)
    assert admin.state() == "DRAINING"
    assert not admin.serving()
    assert refused(lambda: alice.submit("true")).name == "UNAVAILABLE"
    gate.touch()
    until(lambda: admin.state() == "STOPPED", "nothing runs")
    service.stop()
    service.start()
    admin, alice = Admin(service), service.api()
    assert (admin.state(), admin.serving(), admin.serving("")) == ("STOPPED", False, True)
    assert counts(alice, batch) == {"succeeded": 1, "queued": 2}
    admin.start()
    assert alice.wait(batch).counts.succeeded == 3
    kill_server(service, admin, alice)
    assert admin.state() == "SERVING"


def test_a_server_that_was_killed_while_draining_keeps_the_deadline(service: Service, admin: Admin) -> None:
    alice = service.api()
    batch = alice.submit("exec sleep 600")
    until(lambda: alice.get(batch).counts.running == 1, "it runs")
    deadline = admin.stop(deadline_seconds=2).drain_deadline
    kill_server(service, admin, alice)
    status = admin.status()
    assert status.drain_deadline == deadline
    ended = alice.jobs(batch)[0]
    assert ended.state == job_pb2.JOB_STATE_CANCELLED
    assert ended.ended_at.ToNanoseconds() >= deadline.ToNanoseconds()


def test_a_server_that_was_killed_while_cancelling_goes_on_with_it(service: Service, admin: Admin) -> None:
    alice = service.api()
    stubborn = "trap 'echo no' TERM; echo up; while :; do sleep 0.05; done"
    batch = alice.submit(*[stubborn] * 4, batch=job_pb2.BatchOptions(parallelism=2))
    for index in (0, 1):
        assert next(alice.follow(batch, job_index=[index])).data == b"up\n"
    admin.stop(kill=True, cancel_queued=True)
    kill_server(service, admin, alice)
    final = alice.wait(batch)
    assert (final.counts.cancelled, final.counts.skipped) == (2, 2)
    assert admin.state() == "STOPPED"


def test_a_stop_under_load_loses_no_batch_that_was_accepted(service: Service, admin: Admin) -> None:
    given: list[str] = []
    codes: set[str] = set()
    stop = threading.Event()

    def submit(api: Api) -> None:
        while not stop.is_set():
            try:
                given.append(api.submit("true", "true"))
            except grpc.RpcError as error:
                codes.add(error.code().name)  # type: ignore[attr-defined]

    apis = [service.api(user) for user in ("alice", "bob")]
    threads = [threading.Thread(target=submit, args=(api,)) for api in apis]
    for thread in threads:
        thread.start()
    for _ in range(5):
        have = len(given)
        until(lambda have=have: len(given) > have + 5, "batches come in")  # type: ignore[misc]
        admin.stop()
        until(lambda: admin.state() == "STOPPED", "nothing runs")
        admin.start()
    stop.set()
    for thread in threads:
        thread.join()
    assert codes <= {"UNAVAILABLE", "FAILED_PRECONDITION"}
    api = service.api("admin")
    assert all(api.wait(batch).counts.succeeded == 2 for batch in given)


def test_a_request_that_makes_no_sense_is_told_by_field(service: Service, admin: Admin) -> None:
    cases = {
        "deadline": admin_pb2.StopServiceRequest(deadline=duration(-1)),
        "kill": admin_pb2.StopServiceRequest(deadline=duration(1), kill=True),
    }
    cases["deadline "] = admin_pb2.StopServiceRequest(deadline=duration(10**10))
    for field, request in cases.items():
        found = refused(lambda request=request: admin.stub.StopService(request, **admin.api.call()))  # type: ignore[misc]
        assert (found.name, found.fields) == ("INVALID_ARGUMENT", [field.strip()])
    assert admin.state() == "SERVING"


def test_a_damaged_note_of_being_stopped_keeps_it_stopped(service: Service, admin: Admin) -> None:
    admin.stop(deadline_seconds=60)
    (service.data / "stop.json").write_text('{"deadline')
    kill_server(service, admin)
    assert admin.state() == "STOPPED"
    assert not admin.status().HasField("drain_deadline")
    assert "stays stopped" in service.output()
    admin.start()
    kill_server(service, admin)
    assert admin.state() == "SERVING"
