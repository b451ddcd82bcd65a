"""The server's descriptors: none stays open of a batch that is over, and calls say when there is none left."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from jobworker.v1 import admin_pb2, admin_pb2_grpc, job_pb2, query_pb2, schedule_pb2
from tests.faults.trial import Open
from tests.harness.service import Api, Service
from tests.harness.wait import until

BATCHES = 150
OTHERS_MORE = 8  # threads that start as they are needed
LARGE = "true " + "x" * (100 << 10)  # more than goes through the commit log


def test_nothing_stays_open_of_batches_that_were_followed_cancelled_or_broken_off(service: Service) -> None:
    api = service.api()
    server = service.child("server")
    use(api, 5)
    until(lambda: not list((service.data / "active").iterdir()), "all are finished")
    before = Open.of(server, service.data)
    use(api, BATCHES)
    until(lambda: not Open.of(server, service.data).problem(before.others), "all of it is closed")
    assert Open.of(server, service.data).others <= before.others + OTHERS_MORE


def use(api: Api, times: int) -> None:
    """Batches, small and large, each followed to its end; some cancelled, some whose upload fails, and some followers
    that go away."""
    threads = [threading.Thread(target=some, args=(api, range(n, times, 4))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def some(api: Api, numbers: range) -> None:
    for number in numbers:
        command = LARGE if number % 3 == 0 else "echo x"
        batch = api.submit(command, command, "false")
        assert sum(chunk.WhichOneof("payload") == "end" for chunk in api.follow(batch)) == 3
        if number % 5 == 0:
            sleeper = api.submit("echo x; exec sleep 1000", "true", batch=job_pb2.BatchOptions(parallelism=1))
            stream = api.follow(sleeper)
            assert next(stream).data == b"x\n"
            if number % 2:
                stream.cancel()  # type: ignore[attr-defined]
            api.cancel(sleeper)
            list(stream) if not number % 2 else None
        if number % 5 == 1:
            with pytest.raises(grpc.RpcError) as refused:
                api.submit(LARGE, schedule_pb2.JobRequest())
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """The process can open nothing."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.root
def test_without_a_descriptor_every_call_is_answered_or_says_that_there_is_none(service: Service) -> None:
    api, admin = service.api(), service.api("admin")
    finished = [api.submit("echo x") for _ in range(70)]  # more than are kept open
    for batch in finished:
        api.wait(batch)
    running = api.submit("echo x; exec sleep 1000")
    until(lambda: api.get(running).counts.running, "it runs")
    until(lambda: len(list((service.data / "active").iterdir())) == 1, "the others are finished")
    steering = admin_pb2_grpc.AdminServiceStub(admin.channel)
    steering.GetStatus(admin_pb2.GetStatusRequest(), **admin.call())
    update = admin_pb2.UpdateConfigRequest(values=struct_pb2.Struct())
    update.values.update({"jobs": {"running": 77}})
    query, schedule = api.query, api.schedule
    calls: dict[str, Callable[[], Any]] = {
        "submit": lambda: api.submit("true"),
        "submit large": lambda: api.submit(LARGE, LARGE),
        "ExecuteJob": lambda: schedule.ExecuteJob(schedule_pb2.JobRequest(command="true"), **api.call()),
        "GetBatch": lambda: api.get(finished[0]),
        "WaitBatch": lambda: query.WaitBatch(query_pb2.WaitBatchRequest(correlation_id=finished[1]), **api.call()),
        "SearchJob": lambda: api.jobs(finished[2]),
        "StreamLogs": lambda: api.log(finished[3]),
        "StreamLogs, running": lambda: next(api.follow(running)),
        "ListBatches": lambda: query.ListBatches(query_pb2.ListBatchesRequest(page_size=100), **api.call()),
        "GetStatus": lambda: steering.GetStatus(admin_pb2.GetStatusRequest(), **admin.call()),
        "UpdateConfig": lambda: steering.UpdateConfig(update, **admin.call()),
        "GetConfig": lambda: steering.GetConfig(admin_pb2.GetConfigRequest(), **admin.call()),
        "Login": lambda: api.login("alice", service.passwords["alice"]),
        "CancelBatch": lambda: api.cancel(running),
    }
    refused: dict[str, grpc.RpcError] = {}
    with no_descriptors(service.child("server")):
        for name, call in calls.items():
            try:
                call()
            except grpc.RpcError as error:
                refused[name] = error
    assert refused.keys() >= {"submit large", "GetBatch", "SearchJob", "StreamLogs", "UpdateConfig"}
    for name, error in refused.items():
        status = rpc_status.from_call(error)
        assert status is not None, (name, error)
        assert (name, code_pb2.Code.Name(status.code)) == (name, "RESOURCE_EXHAUSTED")
        assert status.message == "the service has too many files open"
        failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
        assert any(detail.Unpack(failure) for detail in status.details)
        assert any(detail.Unpack(retry) for detail in status.details)
        assert failure.violations[0].subject == "service"
        assert retry.retry_delay.seconds > 0
    assert api.jobs(finished[2])[0].exit_code == 0
    assert api.wait(api.submit("true")).counts.succeeded == 1
    api.cancel(running)
