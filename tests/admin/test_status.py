"""GetStatus, and who may call AdminService at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

from jobworker.v1 import admin_pb2, admin_pb2_grpc, job_pb2
from tests.harness.admin import Admin, kill_server
from tests.harness.refusal import refused
from tests.harness.service import Service
from tests.harness.wait import until


def test_the_status_tells_what_runs_waits_and_follows(service: Service) -> None:
    admin = Admin(service)
    alice, bob = service.api("alice"), service.api("bob")
    two = job_pb2.BatchOptions(parallelism=2)
    first = alice.submit(*["exec sleep 600"] * 5, batch=two)
    second = bob.submit("exec sleep 600", batch=two)
    until(lambda: admin.status().running_jobs == 3, "three run")
    streams = [alice.follow(first), bob.follow(second)]
    until(lambda: admin.status().followers == 2, "two follow")
    status = admin.status()
    assert status.version == version("jobworker")
    assert status.uptime.ToNanoseconds() > 0
    assert admin.state() == "SERVING"
    assert (status.unfinished_batches, status.queued_jobs, status.running_jobs) == (2, 3, 3)
    loads = [(u.user, u.unfinished_batches, u.queued_jobs, u.running_jobs) for u in status.users]
    assert loads == [("alice", 1, 3, 2), ("bob", 1, 0, 1)]
    for stream in streams:
        stream.cancel()  # type: ignore[attr-defined]
    for api, batch in ((alice, first), (bob, second)):
        api.cancel(batch)
    until(lambda: admin.status().unfinished_batches == 0, "all is over")
    until(lambda: admin.status().followers == 0, "nobody follows")
    assert [(u.user, u.unfinished_batches, u.stored_batches) for u in admin.status().users] == [
        ("alice", 0, 1),
        ("bob", 0, 1),
    ]


def test_the_status_tells_of_executor_disk_certificates_and_configuration(service: Service) -> None:
    admin = Admin(service)
    status = admin.status()
    executor = status.executor
    assert executor.attached
    assert executor.isolation in ("namespaces", "container", "none")
    assert executor.isolation_detail
    assert executor.tree
    assert 0 < executor.up_since.ToNanoseconds() <= status.started_at.ToNanoseconds()
    assert status.disk.path == str(service.data)
    assert 0 < status.disk.free_bytes <= status.disk.total_bytes
    expiries = {c.name: c.expires_at.seconds for c in status.certificates}
    assert expiries.keys() == {"ca", "server"}
    assert status.started_at.seconds < expiries["server"] <= expiries["ca"]
    assert (status.config.generation, status.config.last_error) == (1, "")
    kill_server(service, admin)
    again = admin.status()
    assert again.executor.epoch == executor.epoch
    assert again.executor.up_since == executor.up_since
    assert again.started_at.ToNanoseconds() > status.started_at.ToNanoseconds()
    assert again.config.generation == 1


def test_an_executor_that_died_is_replaced_by_another_of_which_the_status_tells(service: Service) -> None:
    admin = Admin(service)
    before = admin.status().executor
    os.kill(service.child("executor"), signal.SIGKILL)
    until(lambda: admin.status().executor.epoch != before.epoch, "another executor")
    after = until(lambda: (found := admin.status().executor).attached and found, "it is attached")
    assert after.up_since.ToNanoseconds() > before.up_since.ToNanoseconds()


CALLS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "GetStatus": lambda stub, call: stub.GetStatus(admin_pb2.GetStatusRequest(), **call),
    "StartService": lambda stub, call: stub.StartService(admin_pb2.StartServiceRequest(), **call),
    "StopService": lambda stub, call: stub.StopService(admin_pb2.StopServiceRequest(kill=True), **call),
    "GetConfig": lambda stub, call: stub.GetConfig(admin_pb2.GetConfigRequest(), **call),
    "UpdateConfig": lambda stub, call: stub.UpdateConfig(admin_pb2.UpdateConfigRequest(), **call),
    "PlanRetention": lambda stub, call: stub.PlanRetention(admin_pb2.PlanRetentionRequest(), **call),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("user", ["alice", "vic"])
def test_nobody_but_an_administrator_may_call_it(shared_service: Service, user: str, method: str) -> None:
    api = shared_service.api(user)
    stub = admin_pb2_grpc.AdminServiceStub(api.channel)
    found = refused(lambda: CALLS[method](stub, api.call()))
    assert (found.name, found.reason) == ("PERMISSION_DENIED", "ROLE_INSUFFICIENT")
    api.token = ""
    assert refused(lambda: CALLS[method](stub, api.call())).name == "UNAUTHENTICATED"
    assert Admin(shared_service).state() == "SERVING"
