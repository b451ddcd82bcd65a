"""What is told of the bytes of logs that are gone."""

from __future__ import annotations

import io

from jobworker.ctl.sink import LogSink
from jobworker.v1 import job_pb2, query_pb2


def gap(job: int, offset: int, length: int) -> query_pb2.LogChunk:
    return query_pb2.LogChunk(
        job_index=job,
        stream=job_pb2.LOG_STREAM_MERGED,
        offset=offset,
        gap=query_pb2.LogGap(length=length, reason="why"),
    )


def end(job: int) -> query_pb2.LogChunk:
    return query_pb2.LogChunk(
        job_index=job, stream=job_pb2.LOG_STREAM_MERGED, end=query_pb2.LogEnd(total_bytes=1 << 20)
    )


def test_of_hundreds_of_gaps_the_first_are_told_and_the_others_summed_up() -> None:
    notes: list[str] = []
    sink = LogSink(stdout=io.BytesIO(), stderr=io.BytesIO(), prefix=False, note=notes.append)
    for number in range(200):
        sink.take(gap(0, number * 100, 7))
    sink.take(gap(1, 5, 6))
    sink.take(end(0))
    assert notes == [
        "job 0: bytes 0 to 7 are gone: why",
        "job 0: bytes 100 to 107 are gone: why",
        "job 0: bytes 200 to 207 are gone: why",
        "job 1: bytes 5 to 11 are gone: why",
        "job 0: 1379 more bytes are gone, in 197 places",
    ]
    for number in range(5):
        sink.take(gap(2, number * 100, 7))
    sink.close()
    assert notes[-1] == "job 2: 14 more bytes are gone, in 2 places"
