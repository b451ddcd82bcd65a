"""How the server stops, and who may have its port."""

import asyncio
import errno
from pathlib import Path

import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobworker.v1 import query_pb2
from tests.harness.pki import Pki
from tests.rpc.conftest import Served, detail, error_of, make_server, until


async def test_draining_ends_streams_and_waits_at_once_and_says_when_to_come_again(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(2)
    batch.start(0)
    batch.write(0, b"x")
    name = batch.header.correlation_id
    logs = alice.call(alice.query.StreamLogs, query_pb2.StreamLogsRequest(correlation_id=name))
    search = alice.call(alice.query.SearchJob, query_pb2.SearchJobRequest(correlation_id=name))
    wait = alice.call(alice.query.WaitBatch, query_pb2.WaitBatchRequest(correlation_id=name))
    assert (await logs.read()).data == b"x"
    assert (await search.read()).log_output == "x"
    await until(lambda: len(batch.watchers) == 3, "all three follow")
    await served.server.drain()
    for call in (logs, search, wait):
        status = await error_of(call)
        assert status.code == code_pb2.UNAVAILABLE
        assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert not batch.watchers
    late = alice.call(alice.query.GetBatch, query_pb2.GetBatchRequest(correlation_id=name))
    assert (await error_of(late)).code == code_pb2.UNAVAILABLE
    await asyncio.wait_for(served.server.stop(grace_seconds=20), 10)


async def test_health_says_that_it_stops_before_it_does(served: Served) -> None:
    alice = served.bare_client()
    watch = health_pb2_grpc.HealthStub(alice.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    await served.server.drain()
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await error_of(watch)).code == code_pb2.UNAVAILABLE


async def test_a_follower_that_takes_nothing_does_not_hold_up_the_end(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)
    batch.run(0, bytes(32 << 20))
    stream = alice.call(alice.query.StreamLogs, query_pb2.StreamLogsRequest(correlation_id=batch.header.correlation_id))
    await stream.read()
    await asyncio.wait_for(served.server.stop(grace_seconds=0.2), 20)
    stream.cancel()


async def test_a_taken_port_is_told_as_such(served: Served, tmp_path: Path, pki: Pki) -> None:
    second = make_server(tmp_path / "second", pki, port=served.server.port)
    with pytest.raises(OSError, match=f"port {served.server.port} on localhost is taken") as refused:
        await second.server.start()
    assert refused.value.errno == errno.EADDRINUSE


async def test_a_port_is_free_again_once_its_server_stopped(tmp_path: Path, pki: Pki) -> None:
    first = make_server(tmp_path / "first", pki)
    await first.server.start()
    port = first.server.port
    await first.server.stop(grace_seconds=1)
    second = make_server(tmp_path / "second", pki, port=port)
    await second.server.start()
    assert second.server.port == port
    await second.server.stop(grace_seconds=1)
