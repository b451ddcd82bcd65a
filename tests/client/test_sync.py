"""The face without asyncio, in a process that serves elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.client import InvalidArgumentError, JobRequest
from jobworker.client.sync import Client
from jobworker.v1.job_pb2 import LOG_STREAM_MERGED
from tests.harness.peer import PASSWORD, Peer

ID = "01940000-0000-7000-8000-000000000000"


@pytest.fixture
async def client(peer: Peer, pki: Path):
    with Client(address=peer.address, bundle=pki / "clients/admin") as client:
        yield client


async def test_a_batch_is_iterated_in_the_callers_thread(client: Client, peer: Peer) -> None:
    threads = set()

    def jobs() -> Iterator[JobRequest]:
        for n in range(200):
            threads.add(threading.current_thread())
            yield JobRequest(command=f"echo {n}")

    def submit() -> tuple[threading.Thread, int]:
        return threading.current_thread(), client.submit(jobs()).job_count

    thread, count = await asyncio.to_thread(submit)
    assert count == 200
    assert threads == {thread}


async def test_a_list_of_jobs_is_sent_again_after_a_lost_answer(client: Client, peer: Peer) -> None:
    peer.lose_answers = 1
    response = await asyncio.to_thread(client.submit, [JobRequest(command="true")] * 100)
    assert (response.result, response.job_count) == ("DUPLICATE", 100)


async def test_an_error_of_the_callers_source_comes_back_to_the_caller(client: Client, peer: Peer) -> None:
    def jobs() -> Iterator[JobRequest]:
        yield JobRequest(command="true")
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await asyncio.to_thread(client.submit, jobs())
    assert not peer.accepted


async def test_a_refusal_of_a_batch_ends_the_submit(client: Client, peer: Peer) -> None:
    peer.refuse_after_jobs = 3
    with pytest.raises(InvalidArgumentError):
        await asyncio.to_thread(client.submit, (JobRequest(command="true") for _ in range(100_000)))


async def test_a_follow_is_a_plain_iterator_and_can_be_left_early(client: Client, peer: Peer) -> None:
    peer.logs = {(0, LOG_STREAM_MERGED): b"0123456789"}

    def follow() -> tuple[bytes, bytes]:
        for chunk in client.follow(ID):
            first = chunk.data
            break
        return first, b"".join(chunk.data for chunk in client.follow(ID))

    first, whole = await asyncio.to_thread(follow)
    assert whole == b"0123456789"
    assert whole.startswith(first)


async def test_every_other_method_is_there(client: Client, peer: Peer) -> None:
    def use() -> None:
        assert client.login("admin", PASSWORD).text == "t1"
        peer.tokens = 0
        assert client.get(ID).correlation_id == ID
        assert client.wait(ID, timeout_seconds=1).correlation_id == ID
        assert [batch.name for batch in client.list_batches()] == ["batch 0", "batch 1", "batch 2"]

    await asyncio.to_thread(use)
