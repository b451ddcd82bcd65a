"""A receiver of traces: OTLP over gRPC or HTTP, as a collector has it, with what it received in memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.harness.wait import until

ERROR = trace_pb2.Status.STATUS_CODE_ERROR
UNSET = trace_pb2.Status.STATUS_CODE_UNSET


@dataclass(frozen=True)
class Span:
    """A span as it came."""

    trace: str
    id: str
    parent: str
    name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    began_at: int
    ended_at: int
    error: bool
    message: str
    kind: int
    links: tuple[tuple[str, str], ...]
    state: str


class Received:
    """All spans so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self.requests = 0

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        """What one request holds."""
        with self._lock:
            self.requests += 1
            self._spans += [
                _span(span, _values(resource.resource.attributes))
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def all(self) -> list[Span]:
        """Them."""
        with self._lock:
            return list(self._spans)

    def of(self, correlation_id: str) -> list[Span]:
        """Those of a batch's trace."""
        return [span for span in self.all() if span.trace == correlation_id.replace("-", "")]

    def named(self, correlation_id: str, name: str) -> list[Span]:
        """... with a name, jobs in order."""
        found = [span for span in self.of(correlation_id) if span.name == name]
        return sorted(found, key=lambda span: span.attributes.get("jobworker.job.index", 0))

    def root(self, correlation_id: str) -> Span:
        """The batch's own span, once it is here: the last part of a trace to be known is the first to be sent, so the
        others are waited for as well."""

        def whole() -> Span | None:
            roots = self.named(correlation_id, "batch")
            if not roots:
                return None
            wanted = roots[0].attributes["jobworker.batch.jobs"]
            wanted -= roots[0].attributes.get("jobworker.batch.jobs_without_spans", 0)
            return roots[0] if len(self.named(correlation_id, "queue")) >= wanted else None

        return until(whole, f"the whole trace of {correlation_id}")


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        attributes=_values(span.attributes),
        resource=resource,
        began_at=span.start_time_unix_nano,
        ended_at=span.end_time_unix_nano,
        error=span.status.code == ERROR,
        message=span.status.message,
        kind=span.kind,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        state=span.trace_state,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector's gRPC side. While `held`, requests are taken and not answered."""

    def __init__(self, port: int = 0) -> None:
        self.received = Received()
        self._answers = threading.Event()
        self._answers.set()
        self.waiting = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def environment(self) -> dict[str, str]:
        """What has a process export to it, soon."""
        return environment(f"http://127.0.0.1:{self.port}")

    def hold(self) -> None:
        """Answers nothing from now on."""
        self._answers.clear()

    def release(self) -> None:
        """Answers again."""
        self._answers.set()

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        if not self._answers.is_set():
            self.waiting += 1
            self._answers.wait()
            self.waiting -= 1
        self.received.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def close(self) -> None:
        """Ends it."""
        self.release()
        self._server.stop(None).wait()


def environment(endpoint: str, protocol: str = "grpc") -> dict[str, str]:
    """What has a process export to an endpoint, soon."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }


@contextlib.contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """One for a test."""
    found = Receiver(port)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def http_receiver() -> Iterator[tuple[Received, dict[str, str]]]:
    """A collector's HTTP side, and what has a process export to it."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf":
                received.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
            else:
                self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received, environment(f"http://127.0.0.1:{server.server_address[1]}", "http/protobuf")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
