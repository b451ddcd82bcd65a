"""What is told of the bytes of logs that are gone, and what a terminal gets of those that are there."""

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
    stdout, stderr = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    sink = LogSink(stdout=stdout, stderr=stderr, prefix=False, note=notes.append)
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


class Terminal(io.TextIOWrapper):
    """As sys.stdout is where it is one."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True


def shown(output: io.TextIOWrapper) -> bytes:
    """What it got."""
    assert isinstance(output.buffer, io.BytesIO)
    return output.buffer.getvalue()


def data(job: int, text: bytes, stream: job_pb2.LogStream.ValueType = job_pb2.LOG_STREAM_MERGED) -> query_pb2.LogChunk:
    return query_pb2.LogChunk(job_index=job, stream=stream, data=text)


def test_one_output_may_be_a_terminal_and_the_other_none() -> None:
    terminal, pipe = Terminal(), io.TextIOWrapper(io.BytesIO())
    sink = LogSink(stdout=terminal, stderr=pipe, prefix=False, note=print)
    for stream in (job_pb2.LOG_STREAM_STDOUT, job_pb2.LOG_STREAM_STDERR):
        sink.take(data(0, b"\x1b[2J\xff", stream))
    assert (shown(terminal), shown(pipe)) == (rb"\x1b[2J\xff", b"\x1b[2J\xff")


def test_a_character_goes_on_in_its_own_log_and_not_over_a_gap() -> None:
    terminal = Terminal()
    sink = LogSink(stdout=terminal, stderr=terminal, prefix=False, note=print)
    for chunk in (
        data(0, b"\xc2"),
        data(1, b"\x9b."),
        data(0, b"\xb5."),
        data(0, b"\xc2"),
        gap(0, 3, 1),
        data(0, b"\xb5."),
    ):
        sink.take(chunk)
    assert shown(terminal) == rb"\x9b." + "µ.".encode() + rb"\xc2\xb5."
    for chunk in (data(0, b"\xe5\x8c"), end(0), data(1, b"\xe5")):
        sink.take(chunk)
    sink.close()
    assert shown(terminal).endswith(rb"\xc2\xb5.\xe5\x8c\xe5")
