"""A client whose clock is off: what it names sorts as it came, and it logs in no more often."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from jobworker.client import Client, InvalidArgumentError, JobRequest, PasswordLogin
from jobworker.client import clock as client_clock
from tests.client.test_against_the_service import client_of
from tests.harness.service import Service

HOUR, DAY = 3600.0, 86400.0
SHIFTS = [-2 * DAY, -HOUR, HOUR, 2 * DAY]


def shift(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Sets this process's clock of the day, as the client sees it."""
    shifted = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic)
    monkeypatch.setattr(client_clock, "time", shifted)


@pytest.mark.parametrize("seconds", SHIFTS)
async def test_batches_sort_as_they_came(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    asked = 0

    def password() -> str:
        nonlocal asked
        asked += 1
        return shared_service.passwords["alice"]

    names = []
    async with client_of(shared_service) as right:
        names.append((await right.submit(JobRequest(command="true"))).correlation_id)
        with monkeypatch.context() as patch:
            shift(patch, seconds)
            bundle = shared_service.pki / "clients/alice"
            login = PasswordLogin("alice", password)
            async with Client(address=f"localhost:{shared_service.port}", bundle=bundle, token=login) as wrong:
                names.append((await wrong.submit(JobRequest(command="true"))).correlation_id)
                names.append((await wrong.submit([JobRequest(command="true")] * 3)).correlation_id)
        names.append((await right.submit(JobRequest(command="true"))).correlation_id)
        listed = [batch.correlation_id async for batch in right.list_batches() if batch.correlation_id in names]
    assert listed == names[::-1]
    assert asked == 1


@pytest.mark.parametrize("seconds", [-2 * DAY, 2 * DAY])
async def test_a_client_that_never_logged_in_learns_the_time_from_a_refusal(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    async with client_of(shared_service) as right:
        token = (await right.login("alice", shared_service.passwords["alice"])).text
    shift(monkeypatch, seconds)
    bundle = shared_service.pki / "clients/alice"
    async with Client(address=f"localhost:{shared_service.port}", bundle=bundle, token=token) as client:
        assert (await client.submit([JobRequest(command="true")] * 2)).job_count == 2
    async with Client(address=f"localhost:{shared_service.port}", bundle=bundle, token=token) as client:
        with pytest.raises(InvalidArgumentError) as refused:  # what can be sent once is not sent again
            await client.submit(job for job in [JobRequest(command="true")])
        assert refused.value.reason == "ID_NOT_OF_TODAY"
        assert (await client.submit(job for job in [JobRequest(command="true")])).job_count == 1


async def test_a_name_of_the_callers_is_never_another(shared_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(shared_service) as client:
        with pytest.raises(InvalidArgumentError, match="more than a day from the server's"):
            await client.submit(JobRequest(command="true"), correlation_id="018bcfe5-6800-7000-8000-000000000000")
