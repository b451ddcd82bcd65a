"""The spans of calls, over gRPC and REST: in the caller's trace where it tells one, and never without the batch's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import grpc
import pytest

from jobworker.v1 import query_pb2
from tests.harness.otlp import Receiver, Span, receiver
from tests.harness.rest import rest
from tests.harness.service import Api, Service, running
from tests.harness.wait import until

SERVER = 2  # SpanKind
QUERY, SCHEDULE = "jobworker.v1.JobQueryService", "jobworker.v1.JobScheduleService"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Receiver]]:
    with receiver() as found, running(tmp_path_factory.mktemp("traced"), variables=found.environment) as service:
        yield service, found


@pytest.fixture
def alice(traced: tuple[Service, Receiver]) -> Api:
    return traced[0].api()


class Caller:
    """A span of a client's own."""

    def __init__(self, flags: str = "01") -> None:
        self.trace, self.span = secrets.token_hex(16), secrets.token_hex(8)
        self.value = f"00-{self.trace}-{self.span}-{flags}"


def spans(receiver: Receiver, trace: str, name: str) -> list[Span]:
    return [span for span in receiver.received.all() if (span.trace, span.name) == (trace, name)]


def the_span(receiver: Receiver, trace: str, name: str) -> Span:
    return until(lambda: spans(receiver, trace.replace("-", ""), name), f"{name} in {trace}")[0]


def test_a_call_without_a_trace_of_its_own_is_in_that_of_its_batch(
    traced: tuple[Service, Receiver], alice: Api
) -> None:
    _, receiver = traced
    batch = alice.submit("true")
    alice.wait(batch)
    root = receiver.received.root(batch)
    call = the_span(receiver, batch, f"{SCHEDULE}/ExecuteJobs")
    assert (call.parent, call.kind, call.error, call.links) == (root.id, SERVER, False, ())
    wanted = {
        "rpc.system.name": "grpc", "rpc.method": f"{SCHEDULE}/ExecuteJobs", "rpc.response.status_code": "OK",
        "user.name": "alice", "jobworker.correlation_id": batch, "jobworker.transport": "grpc",
    }  # fmt: skip
    assert wanted.items() <= call.attributes.items()
    list(alice.follow(batch))
    assert the_span(receiver, batch, f"{QUERY}/StreamLogs").parent == root.id


def test_a_callers_trace_is_followed_and_linked_both_ways(traced: tuple[Service, Receiver], alice: Api) -> None:
    _, receiver = traced
    caller = Caller()
    metadata = [("traceparent", caller.value), ("tracestate", "vendor=1,other=2")]
    batch = alice.submit("true", metadata=metadata)
    alice.wait(batch)
    root = receiver.received.root(batch)
    call = the_span(receiver, caller.trace, f"{SCHEDULE}/ExecuteJobs")
    assert (call.parent, call.state) == (caller.span, "vendor=1,other=2")
    assert call.links == ((root.trace, root.id),)
    assert root.links == ((call.trace, call.id),)
    assert not spans(receiver, root.trace, f"{SCHEDULE}/ExecuteJobs")
    asked = Caller()
    alice.query.GetBatch(
        query_pb2.GetBatchRequest(correlation_id=batch), **alice.call(metadata=[("traceparent", asked.value)])
    )
    assert the_span(receiver, asked.trace, f"{QUERY}/GetBatch").links == ((root.trace, root.id),)


def test_a_stream_of_logs_is_in_both_traces(traced: tuple[Service, Receiver], alice: Api) -> None:
    _, receiver = traced
    batch = alice.submit("echo hello")
    alice.wait(batch)
    caller = Caller()
    request = query_pb2.StreamLogsRequest(correlation_id=batch)
    list(alice.query.StreamLogs(request, **alice.call(metadata=[("traceparent", caller.value)])))
    call = the_span(receiver, caller.trace, f"{QUERY}/StreamLogs")
    seen = the_span(receiver, batch, "logs")
    assert (call.parent, seen.parent) == (caller.span, receiver.received.root(batch).id)
    assert seen.links == ((call.trace, call.id),)
    assert (seen.began_at, seen.ended_at) == (call.began_at, call.ended_at)


def test_the_same_over_rest(traced: tuple[Service, Receiver]) -> None:
    service, receiver = traced
    ours = rest(service)
    batch = ours.submit("true")
    ours.wait(batch)
    root = receiver.received.root(batch)
    assert the_span(receiver, batch, f"{SCHEDULE}/ExecuteJobs").attributes["jobworker.transport"] == "rest"
    caller = Caller()
    assert ours("GET", f"/v1/batches/{batch}", traceparent=caller.value).status == 200
    call = the_span(receiver, caller.trace, f"{QUERY}/GetBatch")
    assert (call.parent, call.links) == (caller.span, ((root.trace, root.id),))


@pytest.mark.parametrize("said", ["nonsense", "", f"00-{'0' * 32}-{'1' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01"])
def test_what_is_no_trace_is_ignored(traced: tuple[Service, Receiver], alice: Api, said: str) -> None:
    service, receiver = traced
    batch = alice.submit("true", metadata=[("traceparent", said)])
    alice.wait(batch)
    root = receiver.received.root(batch)
    assert the_span(receiver, batch, f"{SCHEDULE}/ExecuteJobs").parent == root.id
    assert rest(service)("GET", f"/v1/batches/{batch}", traceparent=said).status == 200
    assert the_span(receiver, batch, f"{QUERY}/GetBatch").parent == root.id


def test_a_caller_that_does_not_record_is_not_recorded(traced: tuple[Service, Receiver], alice: Api) -> None:
    _, receiver = traced
    silent, loud = Caller("00"), Caller("01")
    batch = alice.submit("true")
    for caller in (silent, loud):
        alice.query.GetBatch(
            query_pb2.GetBatchRequest(correlation_id=batch), **alice.call(metadata=[("traceparent", caller.value)])
        )
    the_span(receiver, loud.trace, f"{QUERY}/GetBatch")
    assert not [span for span in receiver.received.all() if span.trace == silent.trace]


def test_a_call_that_is_refused_says_its_status_and_is_no_error_of_the_servers(
    traced: tuple[Service, Receiver], alice: Api
) -> None:
    _, receiver = traced
    caller = Caller()
    with pytest.raises(grpc.RpcError):
        alice.query.ListBatches(
            query_pb2.ListBatchesRequest(page_token="?"), **alice.call(metadata=[("traceparent", caller.value)])
        )
    call = the_span(receiver, caller.trace, f"{QUERY}/ListBatches")
    assert (call.attributes["rpc.response.status_code"], call.error) == ("INVALID_ARGUMENT", False)
    other = Caller()
    with pytest.raises(grpc.RpcError):
        alice.query.ListBatches(query_pb2.ListBatchesRequest(), timeout=60, metadata=[("traceparent", other.value)])
    call = the_span(receiver, other.trace, f"{QUERY}/ListBatches")
    assert call.attributes["rpc.response.status_code"] == "UNAUTHENTICATED"
    assert "user.name" not in call.attributes
