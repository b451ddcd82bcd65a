"""Submitting, once however often it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from jobworker.client import (
    AlreadyExistsError,
    BatchOptions,
    Client,
    InvalidArgumentError,
    JobRequest,
    UnavailableError,
    new_correlation_id,
)
from tests.harness.peer import Abort, Peer

AWAY = Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def jobs(count: int) -> list[JobRequest]:
    return [JobRequest(command=f"echo {n}") for n in range(count)]


async def test_a_batch_keeps_its_order_and_is_named_by_the_client(client: Client, peer: Peer) -> None:
    name = new_correlation_id(1_700_000_000_000)
    response = await client.submit(jobs(500), correlation_id=name)
    assert (response.correlation_id, response.result, response.job_count) == (name, "ACCEPTED", 500)
    assert [JobRequest.FromString(job).command for job in peer.accepted[name]] == [f"echo {n}" for n in range(500)]


async def test_a_name_is_made_where_none_is_given(client: Client) -> None:
    first, second = await client.submit(jobs(1)), await client.submit(jobs(1))
    assert first.correlation_id != second.correlation_id
    assert first.correlation_id[14] == "7"


async def test_a_lost_answer_is_asked_for_again_under_the_same_name(client: Client, peer: Peer) -> None:
    peer.lose_answers = 2
    response = await client.submit(jobs(3))
    assert response.result == "DUPLICATE"
    assert len(peer.accepted) == 1
    assert peer.submits == 3


async def test_a_single_job_is_sent_again_too(client: Client, peer: Peer) -> None:
    peer.lose_answers = 1
    assert (await client.submit(JobRequest(command="true"))).result == "DUPLICATE"
    assert len(peer.accepted) == 1


async def test_an_asynchronous_source_that_can_begin_anew_is_sent_again(client: Client, peer: Peer) -> None:
    class Source:
        async def __aiter__(self) -> AsyncIterator[JobRequest]:
            for job in jobs(3):
                yield job

    peer.lose_answers = 1
    assert (await client.submit(Source())).job_count == 3


async def test_what_can_be_iterated_once_is_sent_once(client: Client, peer: Peer) -> None:
    peer.lose_answers = 1
    with pytest.raises(UnavailableError):
        await client.submit(iter(jobs(3)))
    assert peer.submits == 1


async def test_the_options_go_with_the_first_job_and_leave_the_callers_alone(client: Client, peer: Peer) -> None:
    batch = jobs(2)
    response = await client.submit(batch, options=BatchOptions(name="mine", parallelism=3))
    sent = [JobRequest.FromString(job) for job in peer.accepted[response.correlation_id]]
    assert [job.batch.name for job in sent] == ["mine", ""]
    assert sent[0].batch.parallelism == 3
    assert not batch[0].HasField("batch")


async def test_a_refusal_in_the_middle_stops_the_sending_and_says_which_job(client: Client, peer: Peer) -> None:
    peer.refuse_after_jobs = 17
    taken = 0

    def source() -> Iterator[JobRequest]:
        nonlocal taken
        for job in jobs(200_000):
            taken += 1
            yield job

    with pytest.raises(InvalidArgumentError) as caught:
        await client.submit(source())
    assert [v.field for v in caught.value.violations] == ["jobs[17].command"]
    assert taken < 200_000


async def test_a_source_that_fails_leaves_nothing_accepted(client: Client, peer: Peer) -> None:
    def source() -> Iterator[JobRequest]:
        yield JobRequest(command="true")
        raise LookupError("the second is broken")

    with pytest.raises(LookupError, match="the second is broken"):
        await client.submit(source())
    assert (await client.submit(jobs(1))).result == "ACCEPTED"  # sent after it, answered after it
    assert len(peer.accepted) == 1


async def test_another_content_under_the_same_name_is_refused(client: Client) -> None:
    name = new_correlation_id(1_700_000_000_000)
    await client.submit(jobs(1), correlation_id=name)
    with pytest.raises(AlreadyExistsError):
        await client.submit(jobs(2), correlation_id=name)
