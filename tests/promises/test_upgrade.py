"""Upgrading the server under load loses nothing: a thousand running jobs, a hundred followers whose SDK reconnects."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from jobworker.client import BatchOptions, Client, JobRequest, PasswordLogin
from tests.harness.service import Service
from tests.harness.wait import alive, until

JOBS = 1000
FOLLOWERS = 100
LINES = 6


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_is_replaced_under_a_thousand_jobs_and_a_hundred_followers(
    service: Service, scratch: Path, how: signal.Signals
) -> None:
    go, ran = scratch / "go", scratch / "ran"
    ran.mkdir()
    ran.chmod(0o777)
    # Each job prints before, during and after the change, and leaves a mark that a second run would not survive.
    command = (
        f"mkdir {ran}/$JOBWORKER_JOB_INDEX || exit 99; echo line 1; until [ -e {go} ]; do sleep 0.5; done; "
        f"for n in $(seq 2 {LINES}); do echo line $n; done; exit 7"
    )
    expected = b"".join(b"line %d\n" % n for n in range(1, LINES + 1))
    async with Client(
        address=f"localhost:{service.port}",
        bundle=service.pki / "clients" / "alice",
        token=PasswordLogin("alice", service.passwords["alice"]),
        patience_seconds=120,
    ) as client:
        jobs = [JobRequest(command=command)] * JOBS
        name = (await client.submit(jobs, options=BatchOptions(parallelism=JOBS))).correlation_id
        queued = (await client.submit([JobRequest(command="echo queued")] * 50)).correlation_id
        cuts = 0

        def cut(_retry: object) -> None:
            nonlocal cuts
            cuts += 1

        async def follow(index: int) -> bytes:
            log = bytearray()
            async for chunk in client.follow(name, job_index=[index], notice=cut, patience_seconds=120):
                assert chunk.offset == len(log)
                log += chunk.data
            return bytes(log)

        followers = [asyncio.create_task(follow(i * (JOBS // FOLLOWERS))) for i in range(FOLLOWERS)]
        while (await client.get(name)).counts.running < JOBS:
            await asyncio.sleep(0.1)
        old = service.child("server")
        os.kill(old, how)
        await asyncio.to_thread(until, lambda: not alive(old), "the old server's end")
        go.touch()
        assert await asyncio.gather(*followers) == [expected] * FOLLOWERS
        assert cuts >= FOLLOWERS
        batch = await client.wait(name)
        assert batch.counts.failed == JOBS
        codes = [job.exit_code async for job in client.jobs(name)]
        assert codes == [7] * JOBS
        assert (await client.wait(queued)).counts.succeeded == 50
    assert len(list(ran.iterdir())) == JOBS
