"""Tokens that end: while a call is under way, in time before, and for a reason that no login mends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from jobworker.client import Client, JobRequest, PasswordLogin, UnauthenticatedError, connection
from jobworker.v1.job_pb2 import LOG_STREAM_MERGED
from jobworker.v1.query_pb2 import LogChunk, StreamLogsRequest
from tests.harness.peer import PASSWORD, Abort, Peer, data, end, error_info

ID = "01940000-0000-7000-8000-000000000000"


def ended(reason: str) -> Abort:
    return Abort(grpc.StatusCode.UNAUTHENTICATED, "as told", (error_info(reason),))


def logged_in(peer: Peer, password: str | Callable[[], object] = PASSWORD, **options: float) -> Client:
    login = PasswordLogin("admin", password, **options)  # type: ignore[arg-type]
    return Client(address=peer.address, bundle=peer.pki / "clients/admin", token=login, patience_seconds=3600)


def sends(*pieces: LogChunk | Abort):
    async def answer(request: StreamLogsRequest) -> AsyncIterator[LogChunk | Abort]:
        for piece in pieces:
            yield piece

    return answer


async def test_a_follow_goes_on_over_token_after_token(peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"abcdef"}
    expired = ended("TOKEN_EXPIRED")
    peer.script = [sends(data(0, n, b"abcdef"[n : n + 1]), expired) for n in range(5)] + [sends(end(0, 6))]
    peer.script[-1:] = [sends(data(0, 5, b"f"), end(0, 6))]
    async with logged_in(peer) as client:
        chunks = [chunk async for chunk in client.follow(ID)]
    assert b"".join(chunk.data for chunk in chunks) == b"abcdef"
    assert [[c.offset for c in request.cursors] for request in peer.requests] == [[], [1], [2], [3], [4], [5]]
    assert peer.tokens == 6


async def test_so_does_one_of_a_job_that_says_nothing(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LET_IN_SECONDS", -1.0)  # each is let in, and then its token expires
    peer.logs = {(0, LOG_STREAM_MERGED): b""}
    peer.script = [sends(ended("TOKEN_EXPIRED"))] * 5
    async with logged_in(peer) as client:
        assert [chunk.WhichOneof("payload") async for chunk in client.follow(ID)] == ["end"]
    assert peer.tokens == 6


async def test_the_third_new_token_that_is_refused_at_once_is_the_last(peer: Peer) -> None:
    peer.script = [sends(ended("TOKEN_EXPIRED"))] * 100
    peer.logs = {(0, LOG_STREAM_MERGED): b""}
    async with logged_in(peer) as client:
        with pytest.raises(UnauthenticatedError) as caught:
            async for _ in client.follow(ID):
                pass
        assert peer.tokens == 1 + 3
        peer.refusals = [ended("TOKEN_EXPIRED")] * 100
        with pytest.raises(UnauthenticatedError):
            await client.get(ID)
    assert caught.value.reason == "TOKEN_EXPIRED"
    assert peer.tokens == 1 + 3 + 3


@pytest.mark.parametrize("reason", ["USER_DISABLED", "USER_UNKNOWN", "CERTIFICATE_REVOKED", "CERTIFICATE_INVALID"])
async def test_what_no_login_mends_ends_it_with_the_services_words(peer: Peer, reason: str) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"abc"}
    peer.script = [sends(data(0, 0, b"a"), ended(reason))]
    async with logged_in(peer) as client:
        with pytest.raises(UnauthenticatedError, match="as told") as caught:
            async for _ in client.follow(ID):
                pass
    assert caught.value.reason == reason
    assert peer.tokens == 1


async def test_a_wait_and_a_list_go_on_with_another_token(peer: Peer) -> None:
    async with logged_in(peer) as client:
        peer.running, peer.refusals = 1, [None, ended("TOKEN_EXPIRED")]
        assert (await client.wait(ID)).correlation_id == ID
        assert (peer.tokens, peer.refusals) == (2, [])
        pages = client.list_batches()
        names = [(await anext(pages)).name]
        peer.refusals = [ended("TOKEN_EXPIRED")]
        names += [batch.name async for batch in pages]
    assert names == ["batch 0", "batch 1", "batch 2"]
    assert peer.tokens == 3


async def test_a_list_of_jobs_goes_on_behind_the_last_that_was_told(peer: Peer) -> None:
    peer.jobs = 10
    away = Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    async with logged_in(peer) as client:
        peer.search_cuts = [(3, ended("TOKEN_EXPIRED")), (7, ended("TOKEN_EXPIRED")), (7, away), (9, away)]
        assert [job.index async for job in client.jobs(ID)] == list(range(10))
        peer.search_cuts = [(3, ended("TOKEN_EXPIRED"))]
        with pytest.raises(UnauthenticatedError):  # with logs it cannot be known what of one was told
            async for _ in client.search(ID):
                pass
        peer.search_cuts = [(3, ended("USER_DISABLED"))]
        with pytest.raises(UnauthenticatedError, match="as told"):
            async for _ in client.jobs(ID):
                pass


async def test_an_upload_is_sent_again_where_it_can_be_whole(peer: Peer) -> None:
    jobs = [JobRequest(command="true")] * 3
    async with logged_in(peer) as client:
        await client.get(ID)
        peer.refusals = [ended("TOKEN_EXPIRED")]
        assert (await client.submit(jobs)).job_count == 3
        peer.refusals = [ended("TOKEN_EXPIRED")]
        with pytest.raises(UnauthenticatedError):
            await client.submit(iter(jobs))
    assert peer.submits == 1


async def test_a_service_that_is_away_while_a_login_is_due_is_waited_for(peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"abc"}
    away = Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    peer.script = [sends(data(0, 0, b"a"), ended("TOKEN_EXPIRED"))]
    peer.login_refusals = [away]
    async with logged_in(peer) as client:
        chunks = [chunk async for chunk in client.follow(ID)]
        peer.login_refusals, peer.refusals = [away], [ended("TOKEN_EXPIRED")]
        assert (await client.get(ID)).correlation_id == ID
    assert b"".join(chunk.data for chunk in chunks) == b"abc"


async def test_a_token_is_renewed_before_its_end_and_goes_on_where_that_fails(peer: Peer) -> None:
    peer.token_seconds = 20
    async with logged_in(peer, margin_seconds=20) as client:  # of a short one a fifth
        for _ in range(2):
            await client.get(ID)
        assert peer.tokens == 1
    peer.token_seconds = 0  # it is due at once, and this peer takes it on
    asked = []

    def password() -> str:
        asked.append(1)
        if len(asked) > 1:
            raise OSError("the keyring is locked")
        return PASSWORD

    async with logged_in(peer, password) as client:
        for _ in range(3):
            await client.get(ID)
        assert len(asked) == 2
        peer.tokens += 1  # refused: now it is needed
        with pytest.raises(OSError, match="locked"):
            await client.get(ID)


async def test_a_password_is_asked_for_at_each_login(peer: Peer) -> None:
    async def slowly() -> str:
        await asyncio.sleep(0)
        return PASSWORD

    for password in (slowly, lambda: PASSWORD):
        async with logged_in(peer, password) as client:
            assert (await client.get(ID)).correlation_id == ID
