"""The SDK against the real service, over networks and servers that fail."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from jobworker.client import (
    BatchOptions,
    Client,
    JobRequest,
    LogChunk,
    NotFoundError,
    PasswordLogin,
    Retry,
    UnauthenticatedError,
    new_correlation_id,
)
from jobworker.client import sync as sync_client
from jobworker.v1.job_pb2 import (
    BATCH_STATE_CANCELLED,
    BATCH_STATE_SUCCEEDED,
    JOB_STATE_FAILED,
    LOG_STREAM_STDERR,
    LOG_STREAM_STDOUT,
    OUTPUT_MODE_SEPARATE,
)
from tests.harness.proxy import Proxy
from tests.harness.service import Service


def client_of(service: Service, user: str = "alice", address: str | None = None) -> Client:
    return Client(
        address=address or f"localhost:{service.port}",
        bundle=service.pki / "clients" / user,
        token=PasswordLogin(user, service.passwords[user]),
        patience_seconds=60,
    )


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with client_of(shared_service) as client:
        yield client


async def logs_of(follow: AsyncIterator[LogChunk]) -> dict[int, bytes]:
    """The whole log of each job, every piece right after the one before, and each with its end."""
    logs: dict[int, bytearray] = defaultdict(bytearray)
    ended = set()
    async for chunk in follow:
        log = logs[chunk.job_index]
        assert chunk.job_index not in ended
        if chunk.HasField("end"):
            assert chunk.end.total_bytes == len(log)
            ended.add(chunk.job_index)
        else:
            assert chunk.offset == len(log)
            log += chunk.data
    assert ended == set(logs)
    return {job: bytes(log) for job, log in logs.items()}


async def test_a_batch_is_submitted_followed_and_read(client: Client) -> None:
    jobs = [JobRequest(command=f"echo {n}; exit {n}") for n in range(3)]
    accepted = await client.submit(jobs, options=BatchOptions(name="three", labels={"a": "b"}))
    assert await logs_of(client.follow(accepted.correlation_id)) == {n: b"%d\n" % n for n in range(3)}
    batch = await client.wait(accepted.correlation_id)
    assert (batch.name, batch.labels["a"], batch.counts.succeeded, batch.counts.failed) == ("three", "b", 1, 2)
    failed = [job.exit_code async for job in client.jobs(accepted.correlation_id, state=[JOB_STATE_FAILED])]
    assert failed == [1, 2]
    assert [b.correlation_id async for b in client.list_batches()].count(accepted.correlation_id) == 1


async def test_separate_outputs_both_end(client: Client) -> None:
    job = JobRequest(command="echo out; echo error >&2", output=OUTPUT_MODE_SEPARATE)
    accepted = await client.submit(job)
    logs: dict[int, bytes] = defaultdict(bytes)
    ends = []
    async for chunk in client.follow(accepted.correlation_id):
        logs[chunk.stream] += chunk.data
        if chunk.HasField("end"):
            ends.append(chunk.stream)
    assert dict(logs) == {LOG_STREAM_STDOUT: b"out\n", LOG_STREAM_STDERR: b"error\n"}
    assert sorted(ends) == [LOG_STREAM_STDOUT, LOG_STREAM_STDERR]


async def test_jobs_that_never_start_end_the_follow_too(client: Client) -> None:
    jobs = [JobRequest(command="sleep 600"), *[JobRequest(command="echo never", output=mode) for mode in (1, 2)]]
    accepted = await client.submit(jobs, options=BatchOptions(parallelism=1))
    following = asyncio.ensure_future(logs_of_all(client, accepted.correlation_id))
    batch = await client.cancel(accepted.correlation_id)
    assert batch.state == BATCH_STATE_CANCELLED
    assert sorted(await following) == [(0, 1), (1, 1), (2, LOG_STREAM_STDOUT), (2, LOG_STREAM_STDERR)]


async def logs_of_all(client: Client, correlation_id: str) -> list[tuple[int, int]]:
    return [(c.job_index, c.stream) async for c in client.follow(correlation_id) if c.HasField("end")]


async def test_a_snapshot_of_a_running_job_does_not_wait(client: Client) -> None:
    accepted = await client.submit(JobRequest(command="echo ready; sleep 600"))
    follow = client.follow(accepted.correlation_id)
    await anext(follow)
    await follow.aclose()
    chunks = [chunk async for chunk in client.follow(accepted.correlation_id, snapshot=True)]
    assert [chunk.data for chunk in chunks] == [b"ready\n"]
    await client.cancel(accepted.correlation_id)


async def test_a_tail_gives_the_last_lines_and_goes_on(client: Client) -> None:
    accepted = await client.submit(JobRequest(command="seq 1000"))
    await client.wait(accepted.correlation_id)
    chunks = [chunk async for chunk in client.follow(accepted.correlation_id, tail_lines=2)]
    assert b"".join(chunk.data for chunk in chunks) == b"999\n1000\n"


async def test_another_users_batch_is_not_there(client: Client, shared_service: Service) -> None:
    accepted = await client.submit(JobRequest(command="true"))
    async with client_of(shared_service, "bob") as bob:
        with pytest.raises(NotFoundError):
            await logs_of(bob.follow(accepted.correlation_id))


async def test_a_wrong_password_says_so(shared_service: Service) -> None:
    async with client_of(shared_service) as client:
        with pytest.raises(UnauthenticatedError) as caught:
            await client.login("alice", "wrong")
    assert caught.value.reason == "LOGIN_FAILED"


async def test_a_call_without_a_token_says_which_is_missing(shared_service: Service) -> None:
    bundle = shared_service.pki / "clients/alice"
    async with Client(address=f"localhost:{shared_service.port}", bundle=bundle) as client:
        with pytest.raises(UnauthenticatedError) as caught:
            await client.get(new_correlation_id(1_700_000_000_000))
    assert caught.value.reason == "TOKEN_MISSING"


async def test_a_network_that_cuts_loses_no_byte_of_a_follow(shared_service: Service) -> None:
    # More than twice the largest message, so that each connection gets somewhere.
    async with Proxy(shared_service.port, lambda _, back: back > 600_000) as proxy:
        async with (
            client_of(shared_service) as straight,
            client_of(shared_service, address=proxy.address) as client,
        ):
            jobs = [JobRequest(command=f"seq -f 'job {n} line %06g' 50000") for n in range(6)]
            accepted = await straight.submit(jobs)
            logs = await logs_of(client.follow(accepted.correlation_id))
        assert proxy.cuts > 5
    expected = {n: "".join(f"job {n} line {i:06d}\n" for i in range(1, 50001)).encode() for n in range(6)}
    assert logs.keys() == expected.keys()
    assert all(logs[n] == log for n, log in expected.items())  # not shown whole when it fails: it is 2 MB


@pytest.mark.parametrize("sent_bytes", [30_000, 120_000, 240_000])
async def test_a_submit_over_a_network_that_cuts_is_accepted_once(shared_service: Service, sent_bytes: int) -> None:
    left = 2

    def cut(there: int, back: int) -> bool:
        nonlocal left
        if left and there > sent_bytes:
            left -= 1
            return True
        return False

    name = f"cut after {sent_bytes}"
    jobs = [JobRequest(command="true", env={"FILL": "x" * 2000}) for _ in range(120)]
    async with Proxy(shared_service.port, cut) as proxy:
        async with client_of(shared_service, address=proxy.address) as client:
            accepted = await client.submit(jobs, options=BatchOptions(name=name))
            batch = await client.wait(accepted.correlation_id)
            names = [one.name async for one in client.list_batches()]
        assert proxy.cuts == 2
    assert batch.counts.succeeded == 120
    assert names.count(name) == 1


async def test_following_and_waiting_outlive_killed_servers(service: Service) -> None:
    command = "for i in $(seq 200); do echo line $i; sleep 0.02; done"
    async with client_of(service) as client:
        accepted = await client.submit([JobRequest(command=command)] * 3)
        waiting = asyncio.ensure_future(client.wait(accepted.correlation_id))
        retries: list[Retry] = []
        logs: dict[int, bytes] = defaultdict(bytes)
        kills = {50: None, 120: None}
        async for chunk in client.follow(accepted.correlation_id, notice=retries.append):
            logs[chunk.job_index] += chunk.data
            lines = logs[0].count(b"\n")
            if any(lines >= at for at in kills):
                kills.pop(min(kills))
                await asyncio.to_thread(service.kill_server)
        batch = await waiting
    assert batch.state == BATCH_STATE_SUCCEEDED
    assert logs == {n: "".join(f"line {i}\n" for i in range(1, 201)).encode() for n in range(3)}
    assert retries


async def test_the_synchronous_face_does_the_same(shared_service: Service) -> None:
    def use() -> tuple[bytes, int]:
        with sync_client.Client(
            address=f"localhost:{shared_service.port}",
            bundle=shared_service.pki / "clients/alice",
            token=PasswordLogin("alice", shared_service.passwords["alice"]),
        ) as client:
            accepted = client.submit(JobRequest(command=f"echo {n}") for n in range(100))
            logs = b"".join(chunk.data for chunk in client.follow(accepted.correlation_id, job_index=[99]))
            assert [job.index for job in client.jobs(accepted.correlation_id)] == list(range(100))
            return logs, client.wait(accepted.correlation_id).counts.succeeded

    assert await asyncio.to_thread(use) == (b"99\n", 100)
