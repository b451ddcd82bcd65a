"""Batches read over the wire."""

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2

from jobworker.server.model import LogStream, OutputMode
from jobworker.v1 import job_pb2, query_pb2
from tests.logs.livebatch import LiveBatch
from tests.rpc.conftest import Client, Served, detail, error_of, rest_of, until


async def search(client: Client, batch: LiveBatch, **more: object) -> list[query_pb2.SearchJobResponse]:
    request = query_pb2.SearchJobRequest(correlation_id=batch.header.correlation_id, **more)  # type: ignore[arg-type]
    return [response async for response in client.call(client.query.SearchJob, request)]


async def test_a_finished_batch_is_told_in_index_order_with_words_at_the_end_of_each_job(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(3)
    batch.start(0)
    batch.write(0, b"zero\n")
    batch.end(0, exit_code=3)
    batch.run(2, "größe".encode())
    batch.skip(1)
    told = await search(alice, batch)
    assert [(r.job.index, r.result, r.log_output, r.last) for r in told] == [
        (0, "FAILED (exit code 3)", "zero\n", True),
        (1, "SKIPPED (cancelled)", "", True),
        (2, "SUCCEEDED (exit code 0)", "größe", True),
    ]
    assert told[0].job.exit_code == 3
    assert told[0].job.exit_source == job_pb2.EXIT_SOURCE_WAITED
    assert told[0].job.logs[0].bytes == 5
    assert told[0].executed_at == told[0].job.started_at
    assert not told[1].HasField("executed_at")


async def test_a_client_of_the_first_fields_alone_gets_the_whole_of_a_running_batch(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(2)
    batch.start(1)
    batch.write(1, b"second, early")
    request = query_pb2.SearchJobRequest(correlation_id=batch.header.correlation_id)
    stream = alice.call(alice.query.SearchJob, request)
    batch.start(0)
    batch.write(0, b"first ")
    piece = await stream.read()
    assert (piece.result, piece.log_output, piece.log_offset) == ("RUNNING", "first ", 0)
    batch.write(0, b"and last")
    piece = await stream.read()
    assert (piece.result, piece.log_output, piece.log_offset) == ("RUNNING", "and last", 6)
    batch.end(0)
    rest = [await stream.read(), await stream.read()]
    assert (rest[0].result, rest[0].last, rest[0].log_offset) == ("SUCCEEDED (exit code 0)", True, 14)
    assert (rest[1].result, rest[1].log_output) == ("RUNNING", "second, early")
    batch.end(1)
    assert (await stream.read()).result == "SUCCEEDED (exit code 0)"
    assert await rest_of(stream) == []


async def test_no_character_is_split_between_messages_and_what_is_none_is_replaced(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    batch.start(0)
    request = query_pb2.SearchJobRequest(correlation_id=batch.header.correlation_id)
    stream = alice.call(alice.query.SearchJob, request)
    euro = "€".encode()
    batch.write(0, b"1" + euro[:1])
    first = await stream.read()
    batch.write(0, euro[1:] + b"\xff2")
    second = await stream.read()
    batch.write(0, euro[:2])
    batch.end(0)
    rest = await rest_of(stream)
    assert (first.log_output, first.log_offset) == ("1", 0)
    assert (second.log_output, second.log_offset) == ("€\ufffd2", 1)
    assert "".join(response.log_output for response in rest) == "\ufffd"
    assert rest[-1].log_offset == 6


async def test_separate_outputs_come_one_after_the_other_and_their_offsets_run_on(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1, output=OutputMode.SEPARATE)
    batch.start(0)
    batch.write(0, b"error", LogStream.STDERR)
    batch.write(0, b"out", LogStream.STDOUT)
    batch.end(0)
    told = await search(alice, batch)
    assert [(r.log_output, r.log_offset, r.last) for r in told] == [("out", 0, False), ("error", 3, True)]


async def test_a_snapshot_and_a_filter_wait_for_nothing(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(3)
    batch.run(0, b"done")
    batch.start(1)
    batch.write(1, b"so far")
    told = await search(alice, batch, snapshot=True)
    assert [(r.result, r.log_output, r.last) for r in told] == [
        ("SUCCEEDED (exit code 0)", "done", True),
        ("RUNNING", "so far", True),
        ("QUEUED", "", True),
    ]
    told = await search(alice, batch, state=[job_pb2.JOB_STATE_RUNNING])
    assert [(r.job.index, r.log_output) for r in told] == [(1, "so far")]
    told = await search(alice, batch, snapshot=True, job_index=[2, 0], omit_log=True)
    assert [(r.job.index, r.log_output) for r in told] == [(0, ""), (2, "")]


async def test_without_logs_each_job_is_still_waited_for(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(2)
    task = asyncio.create_task(search(alice, batch, omit_log=True))
    await until(lambda: batch.watchers, "the search follows")
    batch.run(1, b"x")
    batch.run(0, b"y")
    assert [(r.job.index, r.result, r.log_output) for r in await task] == [
        (0, "SUCCEEDED (exit code 0)", ""),
        (1, "SUCCEEDED (exit code 0)", ""),
    ]
    assert not batch.watchers


async def test_waiting_answers_when_the_batch_is_final_or_the_time_is_over(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(2)
    name = batch.header.correlation_id
    brief = query_pb2.WaitBatchRequest(correlation_id=name, timeout=Duration(nanos=1_000_000))
    assert (await alice.call(alice.query.WaitBatch, brief)).state == job_pb2.BATCH_STATE_QUEUED
    waits = asyncio.create_task(_wait(alice, query_pb2.WaitBatchRequest(correlation_id=name)))
    await until(lambda: batch.watchers, "it waits")
    batch.run(0, b"")
    batch.skip(1)
    final = await waits
    assert (final.state, final.counts.succeeded, final.counts.skipped) == (job_pb2.BATCH_STATE_CANCELLED, 1, 1)
    assert final.HasField("ended_at")
    assert not batch.watchers
    wrong = query_pb2.WaitBatchRequest(correlation_id=name, timeout=Duration(seconds=-1))
    status = await error_of(alice.call(alice.query.WaitBatch, wrong))
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "timeout"


async def _wait(client: Client, request: query_pb2.WaitBatchRequest) -> job_pb2.Batch:
    batch: job_pb2.Batch = await client.call(client.query.WaitBatch, request)
    return batch


async def test_a_list_shows_ones_own_and_an_admin_everyones(served: Served) -> None:
    mine, other = served.batch(1, user="alice"), served.batch(1, user="bob")
    other.run(0, b"")
    alice, admin = await served.client("alice"), await served.client("admin")

    async def names(client: Client, **ask: object) -> set[str]:
        request = query_pb2.ListBatchesRequest(**ask)  # type: ignore[arg-type]
        return {b.correlation_id for b in (await client.call(client.query.ListBatches, request)).batches}

    assert await names(alice) == {mine.header.correlation_id}
    assert await names(alice, user="alice") == {mine.header.correlation_id}
    assert await names(admin, user="bob") == {other.header.correlation_id}
    assert await names(admin) == {mine.header.correlation_id, other.header.correlation_id}
    assert await names(admin, state=[job_pb2.BATCH_STATE_QUEUED]) == {mine.header.correlation_id}
    status = await error_of(alice.call(alice.query.ListBatches, query_pb2.ListBatchesRequest(user="bob")))
    assert status.code == code_pb2.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        ({"page_token": "x"}, "page_token"),
        ({"state": [1, 99]}, "state[1]"),
        ({"state": [0]}, "state[0]"),
        ({"id_prefix": "xyz"}, "id_prefix"),
        ({"since": Timestamp(seconds=1 << 50)}, "since"),
        ({"until": Timestamp(nanos=-1)}, "until"),
    ],
)
async def test_a_list_that_cannot_be_is_refused_by_its_field(
    served: Served, ask: dict[str, object], field: str
) -> None:
    alice = await served.client()
    status = await error_of(alice.call(alice.query.ListBatches, query_pb2.ListBatchesRequest(**ask)))  # type: ignore[arg-type]
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == field
