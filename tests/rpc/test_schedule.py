"""Batches in over the wire, and their early ends."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2

from jobworker.server.ids import CorrelationId
from jobworker.v1 import job_pb2, query_pb2, schedule_pb2
from tests.rpc.conftest import Client, Served, detail, error_of, until


def fresh_id() -> str:
    return str(CorrelationId.make(time.time_ns() // 1_000_000))


async def commands(*lines: str, fails: bool = False) -> AsyncIterator[schedule_pb2.JobRequest]:
    for line in lines:
        yield schedule_pb2.JobRequest(command=line)
    if fails:
        raise RuntimeError("the client's own source of commands broke")


async def get(client: Client, correlation_id: str) -> job_pb2.Batch:
    batch: job_pb2.Batch = await client.call(
        client.query.GetBatch, query_pb2.GetBatchRequest(correlation_id=correlation_id)
    )
    return batch


async def test_one_job_is_a_batch_of_one(served: Served) -> None:
    alice = await served.client()
    request = schedule_pb2.JobRequest(
        command="true", name="first", batch=job_pb2.BatchOptions(name="night", parallelism=2, labels={"a": "b"})
    )
    accepted = await alice.call(alice.schedule.ExecuteJob, request)
    assert (accepted.result, accepted.job_count) == ("ACCEPTED", 1)
    batch = await get(alice, accepted.correlation_id)
    assert (batch.user, batch.name, batch.parallelism, batch.labels) == ("alice", "night", 2, {"a": "b"})
    assert batch.accepted_at == accepted.executed_at
    assert (batch.state, batch.counts.queued) == (job_pb2.BATCH_STATE_QUEUED, 1)


async def test_a_stream_of_jobs_is_one_batch_in_their_order(served: Served) -> None:
    alice = await served.client()
    lines = [f"echo {number}" for number in range(300)]
    accepted = await alice.call(alice.schedule.ExecuteJobs, commands(*lines))
    assert accepted.job_count == 300
    stored = served.batches.find(CorrelationId(accepted.correlation_id), user="alice")
    assert [stored.job(index).spec.command for index in range(300)] == lines


async def test_the_client_may_name_its_batch_and_repeat_itself(served: Served) -> None:
    alice = await served.client()
    name = fresh_id()
    call = alice.call(alice.schedule.ExecuteJob, schedule_pb2.JobRequest(command="true"), x_correlation_id=name)
    assert (await call).correlation_id == name
    assert ("x-correlation-id", name) in list(await call.initial_metadata())
    again = await alice.call(alice.schedule.ExecuteJobs, commands("true"), x_correlation_id=name)
    assert again.result == "DUPLICATE"
    status = await error_of(alice.call(alice.schedule.ExecuteJobs, commands("false"), x_correlation_id=name))
    assert status.code == code_pb2.ALREADY_EXISTS


@pytest.mark.parametrize("name", ["nonsense", "019312d4-5c00-4abc-8def-0123456789ab", str(CorrelationId.make(1))])
async def test_a_name_that_is_none_is_refused(served: Served, name: str) -> None:
    alice = await served.client()
    call = alice.call(alice.schedule.ExecuteJob, schedule_pb2.JobRequest(command="true"), x_correlation_id=name)
    status = await error_of(call)
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "x-correlation-id"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (schedule_pb2.JobRequest(), "command"),
        (schedule_pb2.JobRequest(command="a", argv=["b"]), "argv"),
        (schedule_pb2.JobRequest(command="a\0b"), "command"),
        (schedule_pb2.JobRequest(command="a", timeout=Duration(seconds=-1)), "timeout"),
        (schedule_pb2.JobRequest(command="a", timeout=Duration(seconds=1, nanos=2_000_000_000)), "timeout"),
        (schedule_pb2.JobRequest(command="a", limits={"cpu_time": Duration(nanos=-5)}), "limits.cpu_time"),  # type: ignore[arg-type]
        (schedule_pb2.JobRequest(command="a", output=7), "output"),  # type: ignore[arg-type]
    ],
)
async def test_a_job_that_cannot_be_right_is_refused_by_its_field(
    served: Served, request_: schedule_pb2.JobRequest, field: str
) -> None:
    alice = await served.client()
    status = await error_of(alice.call(alice.schedule.ExecuteJob, request_))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == field

    async def third() -> AsyncIterator[schedule_pb2.JobRequest]:
        yield schedule_pb2.JobRequest(command="true")
        yield schedule_pb2.JobRequest(command="true")
        yield request_

    status = await error_of(alice.call(alice.schedule.ExecuteJobs, third()))
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == f"jobs[2].{field}"
    assert served.leftovers() == []


async def test_what_is_said_of_the_batch_is_said_on_its_first_message(served: Served) -> None:
    alice = await served.client()

    async def late() -> AsyncIterator[schedule_pb2.JobRequest]:
        yield schedule_pb2.JobRequest(command="true")
        yield schedule_pb2.JobRequest(command="true", batch=job_pb2.BatchOptions(name="late"))

    status = await error_of(alice.call(alice.schedule.ExecuteJobs, late()))
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "jobs[1].batch"
    status = await error_of(alice.call(alice.schedule.ExecuteJobs, commands()))
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "jobs"


@pytest.mark.parametrize("count", [1, 40])
async def test_a_stream_that_the_client_aborts_leaves_nothing(served: Served, count: int) -> None:
    alice = await served.client()
    for _ in range(20):
        call = alice.call(alice.schedule.ExecuteJobs, commands(*["true"] * count, fails=True))
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await call
    ended = lambda: [line["code"] for line in served.log.of("rpc") if "ExecuteJobs" in str(line["method"])]  # noqa: E731
    await until(lambda: not served.server.calls_under_way, "all handlers are over")
    assert "OK" not in ended()
    assert served.leftovers() == []
    assert not served.batches.active
    assert not served.log.of("rpc broke")


async def test_a_connection_that_breaks_in_the_middle_of_a_stream_leaves_nothing(served: Served) -> None:
    for _ in range(5):
        alice = await served.client()
        sent = asyncio.Event()

        async def endless(sent: asyncio.Event = sent) -> AsyncIterator[schedule_pb2.JobRequest]:
            yield schedule_pb2.JobRequest(command="true")
            yield schedule_pb2.JobRequest(command="true")
            sent.set()
            await asyncio.Event().wait()

        call = alice.call(alice.schedule.ExecuteJobs, endless())
        await sent.wait()
        await alice.channel.close(grace=0)
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await call
    await until(lambda: not served.server.calls_under_way, "all handlers are over")
    assert served.leftovers() == []
    assert not served.batches.active


async def test_cancelling_skips_queued_jobs_and_answers_the_same_again(served: Served) -> None:
    alice = await served.client()
    accepted = await alice.call(alice.schedule.ExecuteJobs, commands("a", "b", "c"))
    one = schedule_pb2.CancelBatchRequest(correlation_id=accepted.correlation_id, job_index=[1])
    batch = await alice.call(alice.schedule.CancelBatch, one)
    assert (batch.counts.skipped, batch.counts.queued) == (1, 2)
    everything = schedule_pb2.CancelBatchRequest(correlation_id=accepted.correlation_id)
    batch = await alice.call(alice.schedule.CancelBatch, everything)
    assert (batch.counts.skipped, batch.state) == (3, job_pb2.BATCH_STATE_CANCELLED)
    again = await alice.call(alice.schedule.CancelBatch, everything)
    assert again.counts == batch.counts
    beyond = schedule_pb2.CancelBatchRequest(correlation_id=accepted.correlation_id, job_index=[0, 3])
    status = await error_of(alice.call(alice.schedule.CancelBatch, beyond))
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "job_index[1]"
