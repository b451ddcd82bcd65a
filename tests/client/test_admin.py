"""The SDK's part for administrators, with and without asyncio."""

from __future__ import annotations

import pytest

from jobworker.client import Client, FailedPreconditionError, InvalidArgumentError, JobRequest, PasswordLogin
from jobworker.client.sync import Client as SyncClient
from jobworker.v1.admin_pb2 import SERVICE_STATE_SERVING, SERVICE_STATE_STOPPED
from tests.harness.service import Service


def arguments(service: Service) -> dict[str, object]:
    return {
        "address": f"localhost:{service.port}",
        "bundle": service.pki / "clients" / "admin",
        "token": PasswordLogin("admin", service.passwords["admin"]),
    }


async def test_a_service_is_stopped_started_and_configured(service: Service) -> None:
    async with Client(**arguments(service)) as client:  # type: ignore[arg-type]
        assert (await client.admin.status()).executor.attached
        assert (await client.admin.stop(deadline_seconds=30)).state == SERVICE_STATE_STOPPED
        with pytest.raises(FailedPreconditionError, match="stopped"):
            await client.submit(JobRequest(command="true"))
        assert (await client.admin.start()).state == SERVICE_STATE_SERVING
        generation = (await client.admin.config()).generation
        config = await client.admin.update_config({"jobs.running": 8, "log_level": "error"}, generation=generation)
        assert (config.generation, config.values["jobs"]["running"]) == (generation + 1, 8)
        with pytest.raises(FailedPreconditionError, match="generation"):
            await client.admin.update_config({"jobs.running": 9}, generation=generation)
        with pytest.raises(InvalidArgumentError) as wrong:
            await client.admin.update_config({"jobs.running": 0})
        assert [violation.field for violation in wrong.value.violations] == ["jobs.running"]
        config = await client.admin.update_config({"log_level": "info"}, unset=["jobs.running"])
        assert (config.values["jobs"]["running"], config.values["log_level"]) == (2048, "info")


def test_the_same_goes_without_asyncio(service: Service) -> None:
    with SyncClient(**arguments(service)) as client:  # type: ignore[arg-type]
        assert client.admin.stop(kill=True, cancel_queued=True).state == SERVICE_STATE_STOPPED
        assert client.admin.status().state == SERVICE_STATE_STOPPED
        assert client.admin.start().state == SERVICE_STATE_SERVING
        assert client.admin.update_config({"jobs.running": 8}).values["jobs"]["running"] == 8
        assert client.admin.config().generation == 2
