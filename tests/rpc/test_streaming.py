"""StreamLogs over the wire."""

import asyncio
import os
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from jobworker.server.model import EndReason, JobEnd, JobState, LogStream
from jobworker.server.rpc.chunk import Chunks
from jobworker.v1 import job_pb2, query_pb2
from tests.logs.livebatch import NOW_NS, LiveBatch
from tests.rpc.conftest import Served, detail, error_of, until


def ask(batch: LiveBatch, **more: object) -> query_pb2.StreamLogsRequest:
    return query_pb2.StreamLogsRequest(correlation_id=batch.header.correlation_id, **more)  # type: ignore[arg-type]


async def test_a_running_job_is_followed_to_its_end(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    batch.start(0)
    stream = alice.call(alice.query.StreamLogs, ask(batch))
    batch.write(0, bytes(range(256)))
    chunk = await stream.read()
    assert (chunk.data, chunk.offset, chunk.stream) == (bytes(range(256)), 0, job_pb2.LOG_STREAM_MERGED)
    batch.write(0, b"no newline")
    assert (await stream.read()).data == b"no newline"
    batch.end(0, exit_code=7)
    end = await stream.read()
    assert (end.WhichOneof("payload"), end.end.total_bytes, end.end.exit_code) == ("end", 266, 7)
    assert end.end.state == job_pb2.JOB_STATE_FAILED
    assert await stream.read() == grpc.aio.EOF
    assert await stream.code() == grpc.StatusCode.OK


async def test_a_large_log_comes_whole(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(2)
    data = os.urandom(5 << 20)
    batch.run(0, data)
    batch.skip(1)
    chunks = [chunk async for chunk in alice.call(alice.query.StreamLogs, ask(batch))]
    assert b"".join(chunk.data for chunk in chunks) == data
    assert [(chunk.job_index, chunk.end.total_bytes) for chunk in chunks if chunk.HasField("end")] == [
        (0, len(data)),
        (1, 0),
    ]


async def test_a_cut_stream_goes_on_by_cursor_or_by_offset(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    batch.run(0, b"0123456789")
    by_cursor = ask(batch, cursors=[query_pb2.LogCursor(job_index=0, offset=4)])
    by_offset = ask(batch, job_index=[0], offset=4)
    for request in (by_cursor, by_offset):
        chunks = [chunk async for chunk in alice.call(alice.query.StreamLogs, request)]
        assert (chunks[0].offset, chunks[0].data) == (4, b"456789")
        assert chunks[-1].HasField("end")


async def test_what_cannot_be_streamed_is_refused_by_its_field(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(2)
    batch.run(0, b"abc")
    for request, field in (
        (ask(batch, cursors=[query_pb2.LogCursor(job_index=7)]), "cursors[0].job_index"),
        (ask(batch, cursors=[query_pb2.LogCursor(stream=job_pb2.LOG_STREAM_STDERR)]), "cursors[0].stream"),
        (ask(batch, cursors=[query_pb2.LogCursor(stream=9)]), "cursors[0].stream"),  # type: ignore[arg-type]
        (ask(batch, job_index=[0, 2]), "job_index[1]"),
        (ask(batch, offset=1), "offset"),
        (query_pb2.StreamLogsRequest(correlation_id="nonsense"), "correlation_id"),
    ):
        status = await error_of(alice.call(alice.query.StreamLogs, request))
        assert status.code == code_pb2.INVALID_ARGUMENT
        assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == field


async def test_a_cursor_beyond_the_end_is_told_where_the_log_ends(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(3)
    batch.run(1, b"abc")
    for request, field, offset in (
        (ask(batch, cursors=[query_pb2.LogCursor(job_index=1, offset=4)]), "cursors[0].offset", "4"),
        (ask(batch, offset=9, job_index=[1]), "offset", "9"),
    ):
        status = await error_of(alice.call(alice.query.StreamLogs, request))
        assert status.code == code_pb2.OUT_OF_RANGE
        assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == field
        info = detail(status, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == ("LOG_IS_SHORTER", "jobworker")
        assert info.metadata == {"job_index": "1", "stream": "MERGED", "offset": offset, "size": "3"}


async def test_a_client_that_goes_away_leaves_no_handler_and_no_open_file(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    batch.start(0)
    idle = alice.call(alice.query.StreamLogs, ask(batch))
    await until(lambda: len(batch.watchers) == 1, "the idle follower")
    batch.write(0, bytes(64 << 20))
    writing = alice.call(alice.query.StreamLogs, ask(batch))
    await writing.read()  # and no more: its handler waits in a write
    idle.cancel()
    writing.cancel()
    await until(lambda: not batch.watchers, "both gone")
    await until(lambda: [line["code"] for line in served.log.of("rpc")][-2:] == ["CANCELLED"] * 2, "both over")
    assert not served.log.of("rpc broke")


async def test_a_client_that_takes_nothing_is_cut_and_goes_on_by_cursor(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    data = os.urandom(32 << 20)
    batch.run(0, data)
    stream = alice.call(alice.query.StreamLogs, ask(batch))
    got = bytearray()

    async def take() -> None:
        async for chunk in stream:
            assert chunk.offset == len(got)
            got.extend(chunk.data)

    await stream.wait_for_connection()
    await until(lambda: any(line["code"] == "RESOURCE_EXHAUSTED" for line in served.log.of("rpc")), "the cut")
    await until(lambda: not served.server.open_logs, "the log is closed")
    with pytest.raises(grpc.aio.AioRpcError, match="the client has taken nothing"):
        await take()
    assert await stream.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(got) < len(data)
    request = ask(batch, cursors=[query_pb2.LogCursor(job_index=0, offset=len(got))])
    async for chunk in alice.call(alice.query.StreamLogs, request):
        got += chunk.data
    assert got == data


async def test_a_stuck_follower_slows_no_other(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    batch.start(0)
    data = os.urandom(16 << 20)
    batch.write(0, data)
    stuck = [alice.call(alice.query.StreamLogs, ask(batch)) for _ in range(5)]
    for stream in stuck:
        await stream.read()
    batch.end(0)
    got = b"".join([chunk.data async for chunk in alice.call(alice.query.StreamLogs, ask(batch))])
    assert got == data
    for stream in stuck:
        stream.cancel()


async def test_a_hundred_followers_of_one_job_get_every_byte_from_one_open_file(served: Served) -> None:
    batch = served.batch(1)
    batch.start(0)
    alice = await served.client()
    streams = [alice.call(alice.query.StreamLogs, ask(batch)) for _ in range(100)]
    await until(lambda: len(batch.watchers) == 100, "all of them")
    printed = b""

    async def collect(stream: object) -> bytes:
        return b"".join([chunk.data async for chunk in stream])  # type: ignore[attr-defined]

    tasks = [asyncio.create_task(collect(stream)) for stream in streams]
    for number in range(50):
        line = b"line %d\n" % number
        printed += line
        batch.write(0, line)
        await asyncio.sleep(0)
        assert served.server.open_logs <= 1
    batch.end(0)
    assert set(await asyncio.gather(*tasks)) == {printed}


def test_chunks_by_hand_are_what_protobuf_reads(tmp_path: Path) -> None:
    chunks = Chunks(clock_ns=lambda: NOW_NS)
    for index, offset, data in ((0, 0, b"x"), (7, 300, b""), (99_999, 1 << 40, bytes(range(256)) * 1024)):
        chunk = query_pb2.LogChunk.FromString(chunks.data(index, LogStream.STDERR, offset, memoryview(data)))
        assert (chunk.job_index, chunk.stream, chunk.offset, chunk.data) == (
            index,
            job_pb2.LOG_STREAM_STDERR,
            offset,
            data,
        )
        assert chunk.WhichOneof("payload") == "data"
        assert chunk.observed_at.ToNanoseconds() == NOW_NS
    gap = query_pb2.LogChunk.FromString(chunks.gap(1, LogStream.MERGED, 2, 3, "why"))
    assert (gap.offset, gap.gap.length, gap.gap.reason) == (2, 3, "why")
    killed = JobEnd(JobState.FAILED, EndReason.SIGNALLED, signal=9)
    end = query_pb2.LogChunk.FromString(chunks.end(1, LogStream.MERGED, 5, killed))
    assert (end.offset, end.end.total_bytes, end.end.signal, end.end.end_reason) == (
        5,
        5,
        9,
        job_pb2.END_REASON_SIGNALLED,
    )
