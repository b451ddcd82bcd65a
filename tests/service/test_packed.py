"""Many jobs in one message of ExecuteJobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.refusal import refused
from tests.harness.service import Api, Service
from tests.promises.test_1_a_returned_id_is_durable import uuid7

J = schedule_pb2.JobRequest


def packed(*commands: str, **fields: object) -> schedule_pb2.JobRequest:
    return J(jobs=[J(command=c) for c in commands], **fields)


def send(api: Api, *messages: schedule_pb2.JobRequest, name: str | None = None) -> schedule_pb2.JobResponse:
    metadata = [("x-correlation-id", name)] if name else []
    answer: schedule_pb2.JobResponse = api.schedule.ExecuteJobs(iter(messages), **api.call(metadata=metadata))
    return answer


def test_packed_and_single_jobs_mix_and_keep_their_order(alice: Api) -> None:
    options = job_pb2.BatchOptions(parallelism=1, name="mixed")
    answer = send(alice, packed("echo 0", "echo 1", batch=options), J(command="echo 2"), packed("echo 3"))
    assert answer.job_count == 4
    batch = alice.wait(answer.correlation_id)
    assert (batch.name, batch.parallelism) == ("mixed", 1)
    assert [alice.log(answer.correlation_id, i) for i in range(4)] == [b"%d\n" % i for i in range(4)]


def test_the_same_jobs_cut_up_otherwise_are_the_same_batch(alice: Api) -> None:
    name = uuid7(4711)
    assert send(alice, packed("true", "echo x"), name=name).result == "ACCEPTED"
    assert send(alice, J(command="true"), J(command="echo x"), name=name).result == "DUPLICATE"


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([packed("true", ""), J(command="true")], "jobs[1].command"),
        ([J(command="true"), packed("true", "")], "jobs[2].command"),
        ([packed("true", command="false")], "jobs[0]"),
        ([J(jobs=[packed("true")])], "jobs[0].jobs"),
        ([J(jobs=[J(command="true", batch=job_pb2.BatchOptions(name="x"))])], "jobs[0].batch"),
        ([packed("true"), packed("true", batch=job_pb2.BatchOptions(name="x"))], "jobs[1].batch"),
    ],
)
def test_what_is_wrong_is_named_by_its_place_in_the_batch(
    alice: Api, messages: list[schedule_pb2.JobRequest], field: str
) -> None:
    refusal = refused(lambda: send(alice, *messages))
    assert refusal.name == "INVALID_ARGUMENT"
    assert field in refusal.fields


def test_a_single_job_cannot_hold_others(alice: Api) -> None:
    refusal = refused(lambda: alice.schedule.ExecuteJob(packed("true"), **alice.call()))
    assert (refusal.name, list(refusal.fields)) == ("INVALID_ARGUMENT", ["jobs"])


def test_a_hundred_thousand_commands_are_accepted_at_a_bounded_memory(service: Service) -> None:
    api = service.api()
    server = service.child("server")

    def messages() -> Iterator[schedule_pb2.JobRequest]:
        command = J(command="true " + "x" * 100)
        for i in range(200):
            message = J(jobs=[command] * 500)
            if i == 0:
                message.jobs[0].command = "exec sleep 600"
                message.batch.parallelism = 1
            yield message

    api.wait(api.submit("true"))
    before = resident(server)
    answer = api.schedule.ExecuteJobs(messages(), **api.call())
    assert answer.job_count == 100_000
    # 17 bytes a job stay, and one message at a time; a hundred thousand jobs as objects would be over 50 MiB.
    assert resident(server) - before < 25 << 20
    final = api.cancel(answer.correlation_id)
    assert final.counts.skipped + final.counts.cancelled == 100_000


def resident(pid: int) -> int:
    """Bytes (proc(5), VmRSS)."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def test_other_calls_are_answered_while_a_large_message_is_taken_in(service: Service) -> None:
    api = service.api()
    other = service.api()
    message = packed(*["true"] * 60_000)
    name = other.submit("true")
    answered = 0
    for _ in range(5):  # a busy machine answers few each time; a server that takes it in at one go, at most two
        done = threading.Event()

        def submit(done: threading.Event = done) -> None:
            try:
                send(api, message)
            except grpc.RpcError:
                pass
            finally:
                done.set()

        thread = threading.Thread(target=submit)
        thread.start()
        while not done.is_set():
            other.get(name)
            answered += 1
        thread.join()
        if answered > 10:
            break
    assert answered > 10
