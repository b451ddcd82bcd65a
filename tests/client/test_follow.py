"""Following over cuts, against a peer that cuts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from jobworker.client import (
    Client,
    CutError,
    LogChunk,
    LogCursor,
    OutOfRangeError,
    PasswordLogin,
    PermissionDeniedError,
    Retry,
)
from jobworker.client.errors import JobworkerError
from jobworker.v1.job_pb2 import LOG_STREAM_MERGED, LOG_STREAM_STDERR, LOG_STREAM_STDOUT
from jobworker.v1.query_pb2 import StreamLogsRequest
from tests.harness.peer import PASSWORD, Abort, Peer, data, end, error_info, gap, retry_after

ID = "01940000-0000-7000-8000-000000000000"
CUT = Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def read(source: AsyncIterator[LogChunk]) -> tuple[dict[tuple[int, int], bytes], list[tuple[int, int]]]:
    """The bytes of each log, and the logs that ended, in order; every piece must fit to the one before."""
    logs: dict[tuple[int, int], bytes] = defaultdict(bytes)
    ends = []
    async for chunk in source:
        key = (chunk.job_index, chunk.stream)
        if chunk.HasField("end"):
            assert chunk.end.total_bytes == len(logs[key])
            ends.append(key)
        else:
            assert chunk.offset == len(logs[key])
            logs[key] += chunk.data
    return dict(logs), ends


def cut_after(peer: Peer, pieces: int, with_what: Abort = CUT):
    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        sent = 0
        async for chunk in peer.whole(request):
            if sent == pieces:
                yield with_what
            yield chunk
            sent += 1

    return answer


@pytest.mark.parametrize("pieces", [0, 1, 3, 7, 8, 11])
async def test_a_cut_stream_goes_on_without_a_byte_twice_or_missing(client: Client, peer: Peer, pieces: int) -> None:
    peer.logs = {(job, LOG_STREAM_MERGED): bytes(range(job, job + 23)) for job in range(3)}
    peer.script = [cut_after(peer, pieces), cut_after(peer, 1), cut_after(peer, 0)]
    logs, ends = await read(client.follow(ID))
    assert logs == peer.logs
    assert sorted(ends) == sorted(peer.logs)
    assert len(peer.requests) == 4


async def test_jobs_that_are_complete_are_not_asked_for_again(client: Client, peer: Peer) -> None:
    peer.logs = {(job, LOG_STREAM_MERGED): b"seven b" for job in range(3)}
    peer.script = [cut_after(peer, 3)]
    await read(client.follow(ID))
    resumed = peer.requests[1]
    assert list(resumed.job_index) == [1, 2]
    assert [(c.job_index, c.stream, c.offset) for c in resumed.cursors] == [(1, LOG_STREAM_MERGED, 7)]


@pytest.mark.parametrize(
    "failure",
    [
        CUT,
        Abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        Abort(grpc.StatusCode.UNKNOWN, "Stream removed"),
        Abort(grpc.StatusCode.CANCELLED, "the service stops"),
        Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow", (retry_after(0.01),)),
    ],
    ids=lambda failure: failure.code.name,
)
async def test_what_passes_by_itself_is_tried_again(client: Client, peer: Peer, failure: Abort) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}
    peer.script = [cut_after(peer, 1, failure)]
    seen: list[Retry] = []
    logs, _ = await read(client.follow(ID, notice=seen.append))
    assert logs == peer.logs
    assert [retry.error.code for retry in seen] == [failure.code]


async def test_a_refusal_is_raised_at_once(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}
    peer.script = [cut_after(peer, 1, Abort(grpc.StatusCode.PERMISSION_DENIED, "no longer"))]
    with pytest.raises(PermissionDeniedError, match="no longer"):
        await read(client.follow(ID))


async def test_an_internal_error_of_the_service_is_no_cut(client: Client, peer: Peer) -> None:
    peer.script = [cut_after(peer, 0, Abort(grpc.StatusCode.INTERNAL, "it is broken"))]
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}
    with pytest.raises(JobworkerError, match="it is broken"):
        await read(client.follow(ID))


async def test_bytes_that_come_twice_are_dropped(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"0123")
        yield data(0, 0, b"0123")
        yield data(0, 2, b"234567")
        yield data(0, 8, b"89")
        yield end(0, 10)
        yield end(0, 10)

    peer.script = [answer]
    logs, ends = await read(client.follow(ID))
    assert logs == peer.logs
    assert ends == [(0, LOG_STREAM_MERGED)]


async def test_bytes_that_are_missing_are_asked_for(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"012")
        yield data(0, 6, b"6789")
        yield end(0, 10)

    peer.script = [answer]
    logs, _ = await read(client.follow(ID))
    assert logs == peer.logs
    assert [c.offset for c in peer.requests[1].cursors] == [3]


async def test_an_end_beyond_what_was_sent_is_asked_for_again(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"012")
        yield end(0, 10)

    peer.script = [answer]
    assert (await read(client.follow(ID)))[0] == peer.logs


async def test_a_gap_counts_as_its_bytes(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield gap(0, 0, 6)
        yield CUT

    async def rest(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield gap(0, 4, 4)
        yield data(0, 8, b"89")
        yield end(0, 10)

    peer.script = [answer, rest]
    chunks = [chunk async for chunk in client.follow(ID)]
    assert [(c.WhichOneof("payload"), c.offset) for c in chunks] == [("gap", 0), ("gap", 6), ("data", 8), ("end", 10)]
    assert chunks[1].gap.length == 2
    assert [c.offset for c in peer.requests[1].cursors] == [6]


async def test_a_stream_that_ends_well_but_early_is_a_cut(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789", (1, LOG_STREAM_MERGED): b""}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"0123456789")
        yield end(0, 10)

    peer.script = [answer]
    logs, ends = await read(client.follow(ID))
    assert logs[0, LOG_STREAM_MERGED] == b"0123456789"
    assert ends == [(0, LOG_STREAM_MERGED), (1, LOG_STREAM_MERGED)]


async def test_a_service_that_never_ends_a_log_is_given_up_on(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"0123456789")

    peer.script = [answer] * 100
    with pytest.raises(CutError):
        await read(client.follow(ID, patience_seconds=0.3))


async def test_separate_outputs_are_complete_when_both_are(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_STDOUT): b"out", (0, LOG_STREAM_STDERR): b"error"}
    peer.script = [cut_after(peer, 2)]
    logs, ends = await read(client.follow(ID))
    assert logs == peer.logs
    assert sorted(ends) == sorted(peer.logs)
    assert [(c.stream, c.offset) for c in peer.requests[1].cursors] == [(LOG_STREAM_STDOUT, 3)]


async def test_a_cursor_of_the_callers_is_where_it_begins(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 4, b"45")
        yield CUT

    peer.script = [answer]
    chunks = [chunk async for chunk in client.follow(ID, cursors=[LogCursor(job_index=0, offset=4)])]
    assert b"".join(chunk.data for chunk in chunks) == b"456789"


async def test_a_log_that_a_power_failure_made_shorter_is_told_and_goes_on_from_its_end(
    client: Client, peer: Peer
) -> None:
    async def longer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"0123456789")
        yield CUT

    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456"}
    log = error_info("LOG_IS_SHORTER")
    log.metadata.update({"job_index": "0", "stream": "MERGED", "offset": "10", "size": "7"})
    peer.script = [longer, cut_after(peer, 0, Abort(grpc.StatusCode.OUT_OF_RANGE, details=(log,)))]
    told: list[Retry] = []
    chunks = [chunk async for chunk in client.follow(ID, notice=told.append)]
    assert b"".join(chunk.data for chunk in chunks) == b"0123456789"
    assert chunks[-1].end.total_bytes == 7
    assert [(c.job_index, c.offset) for c in peer.requests[2].cursors] == [(0, 7)]
    assert isinstance(told[1].error, OutOfRangeError)
    assert told[1].error.message == "bytes 7 to 9 of job 0, which came before, are not in its log any more"


async def test_a_cursor_of_the_callers_beyond_the_end_is_an_error(client: Client, peer: Peer) -> None:
    log = error_info("LOG_IS_SHORTER")
    log.metadata.update({"job_index": "0", "stream": "MERGED", "offset": "10", "size": "7"})
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456"}
    peer.script = [cut_after(peer, 0, Abort(grpc.StatusCode.OUT_OF_RANGE, details=(log,)))]
    with pytest.raises(OutOfRangeError) as refused:
        await read(client.follow(ID, cursors=[LogCursor(job_index=0, stream=LOG_STREAM_MERGED, offset=10)]))
    assert refused.value.metadata["size"] == "7"


async def test_a_tail_begins_where_the_service_says_and_is_exact_from_there(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 6, b"67")
        yield CUT

    peer.script = [cut_after(peer, 0), answer]
    chunks = [chunk async for chunk in client.follow(ID, tail_bytes=4)]
    assert b"".join(chunk.data for chunk in chunks) == b"6789"
    assert [request.tail_bytes for request in peer.requests] == [4, 4, 0]


async def test_a_snapshot_ends_with_the_stream(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, b"012")

    peer.script = [answer]
    assert [chunk.data async for chunk in client.follow(ID, snapshot=True)] == [b"012"]


async def test_a_token_that_expires_under_a_follower_is_renewed(peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}
    login = PasswordLogin("admin", PASSWORD)
    async with Client(address=peer.address, bundle=peer.pki / "clients/admin", token=login) as client:
        follow = client.follow(ID)
        first = await anext(follow)
        peer.tokens += 1  # as if another had been given: the first is not taken any more
        peer.script = []
        rest = [chunk async for chunk in follow]
        assert first.data + b"".join(chunk.data for chunk in rest) == b"0123456789"


async def test_a_follower_outlives_a_service_that_goes_and_comes_back(pki: Path) -> None:
    content = bytes(range(100))
    first = Peer(pki, logs={(0, LOG_STREAM_MERGED): content})

    async def one_piece(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        yield data(0, 0, content[:3])
        await asyncio.Event().wait()  # and then nothing, until the service goes

    first.script = [one_piece]
    away = asyncio.Event()
    async with first:
        client = Client(address=first.address, bundle=pki / "clients/admin")
        follow = client.follow(ID, notice=lambda _: away.set())
        reached = (await anext(follow)).data
        rest = asyncio.ensure_future(anext(follow))
    await away.wait()
    async with Peer(pki, logs=first.logs, port=first.port):
        reached += (await rest).data
        reached += b"".join([chunk.data async for chunk in follow])
        await client.close()
    assert reached == content
