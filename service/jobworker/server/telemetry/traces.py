"""Traces: what the server tells of batches and calls becomes spans, which are exported by OTLP. Off, it costs nothing.

A batch's spans are made when it is finished, from its files: its jobs cost nothing while they run, and a server that
was killed in the middle has lost none. Knows neither gRPC nor the files' form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from jobworker.server.telemetry import otlp
from jobworker.server.telemetry.failure import describe
from jobworker.server.telemetry.observe import Observer
from jobworker.server.telemetry.pipeline import Pipeline
from jobworker.server.telemetry.records import BatchRecord, CallEnd, CallRecord
from jobworker.server.telemetry.sampling import Sampler
from jobworker.server.telemetry.tracecontext import Remote

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from jobworker.server.ids import CorrelationId
    from jobworker.server.model import BatchHeader, BatchState
    from jobworker.server.telemetry.log import Log
    from jobworker.server.telemetry.records import Ends
    from jobworker.server.telemetry.spans import Spans

_CLOSE_SECONDS = 2.0
# A batch not yet finished has its times in memory; beyond so many they come from its files, like after a restart.
_REMEMBERED_BATCHES = 100_000
# Probes come every few seconds, and nobody looks for them.
_UNTRACED = ("/grpc.health.v1.", "/grpc.reflection.")


class Traces(Observer):
    """Everything about traces. As it is here they are off: subclasses record."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def configure(self, *, sample_ratio: float | None, jobs_per_batch: int) -> None:  # noqa: ARG002
        """Takes other values, from now on."""
        self._sampler.configure(sample_ratio)

    def tells_sampled(self, correlation_id: CorrelationId) -> bool:  # noqa: ARG002
        """What jobs are told of their batch's trace. Without traces of our own a job's are its own affair, and it is
        not told to drop them."""
        return True

    def call_began(self, method: str, transport: str, remote: Remote | None) -> CallRecord | None:  # noqa: ARG002
        """A call begins; what it returns is for `call_ended`, None where its span will not be wanted."""
        return None

    def call_ended(self, call: CallRecord, *, code: str, user: str | None, batch: CorrelationId | None) -> None:
        """A call is over."""

    def close(self) -> None:
        """Sends what there is; waits two seconds at the most."""


class RecordedTraces(Traces):
    """Records and exports them."""

    def __init__(
        self,
        *,
        spans: Spans,
        sampler: Sampler,
        pipeline: Pipeline,
        ends: Callable[[BatchHeader, int], Ends],
        current_call: Callable[[], CallRecord | None],
        clock_ns: Callable[[], int],
    ) -> None:
        """
        Args:
            ends: reads how a finished batch's jobs ended: the first so many, and as many more that failed; any thread.
            current_call: the call in which the server is just working.
        """
        super().__init__(sampler)
        self._spans = spans
        self._pipeline = pipeline
        self._ends = ends
        self._current_call = current_call
        self._clock_ns = clock_ns
        self._jobs_per_batch = 0
        self._accepted: dict[CorrelationId, tuple[int, CallRecord | None]] = {}

    def configure(self, *, sample_ratio: float | None, jobs_per_batch: int) -> None:
        super().configure(sample_ratio=sample_ratio, jobs_per_batch=jobs_per_batch)
        self._jobs_per_batch = jobs_per_batch

    def tells_sampled(self, correlation_id: CorrelationId) -> bool:
        return self._sampler.keeps_batch(correlation_id)

    # -- Observer

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:  # noqa: ARG002
        if len(self._accepted) < _REMEMBERED_BATCHES and self._sampler.keeps_batch(header.correlation_id):
            self._accepted[header.correlation_id] = (durable_at, self._current_call())

    def batch_finished(
        self,
        header: BatchHeader,
        job_count: int,
        state: BatchState,
        started_at: int | None,  # noqa: ARG002 - the earliest of the runs says it
        ended_at: int | None,
    ) -> None:
        durable_at, call = self._accepted.pop(header.correlation_id, (None, None))
        if not self._sampler.keeps_batch(header.correlation_id):
            return
        record = BatchRecord(header, job_count, state, ended_at, durable_at, call)
        jobs = self._jobs_per_batch
        self._pipeline.put(2 + 2 * min(job_count, jobs), lambda: self._of_batch(record, jobs))

    def _of_batch(self, record: BatchRecord, jobs: int) -> Iterator[ReadableSpan]:
        return self._spans.of_batch(record, self._ends(record.header, jobs))

    # -- calls

    def call_began(self, method: str, transport: str, remote: Remote | None) -> CallRecord | None:
        if method.startswith(_UNTRACED):
            return None
        if remote is not None and not self._sampler.follows(remote):
            return None
        # No secrets: ids. The top bit keeps them from being 0.
        trace, span = random.getrandbits(128) | 1 << 127, random.getrandbits(64) | 1 << 63
        return CallRecord(method, transport, self._clock_ns(), trace, span, remote)

    def call_ended(self, call: CallRecord, *, code: str, user: str | None, batch: CorrelationId | None) -> None:
        batch_is_kept = batch is not None and self._sampler.keeps_batch(batch)
        if call.remote is None and not (self._sampler.keeps(call.trace_id) if batch is None else batch_is_kept):
            return
        end = CallEnd(self._clock_ns(), code, user, batch)
        self._pipeline.put(1, lambda: self._spans.of_call(call, end, batch_is_kept=batch_is_kept))

    # -- the end

    def close(self) -> None:
        self._pipeline.close(_CLOSE_SECONDS)


def open_traces(
    *,
    exporter: Literal["auto", "otlp", "none"],
    environment: Mapping[str, str],
    version: str,
    ends: Callable[[BatchHeader, int], Ends],
    current_call: Callable[[], CallRecord | None],
    clock_ns: Callable[[], int],
    count: Callable[[str, int], object],
    log: Log,
) -> Traces:
    """Traces as configuration and environment say; off when the exporter cannot be made, which is told in the log."""
    sampler = Sampler(environment)
    if not otlp.wanted(exporter, environment):
        return Traces(sampler)
    if sampler.problem:
        log.warning("the sampler is not as the environment says", problem=sampler.problem)
    # The SDK takes a while to load, and is not wanted everywhere.
    from jobworker.server.telemetry.spans import Spans  # noqa: PLC0415

    try:
        sink = otlp.Otlp(environment)
    except Exception as error:
        known = isinstance(error, otlp.ProtocolError)
        log.error("there are no traces", problem=str(error) if known else describe(error))
        return Traces(sampler)
    log.info("traces are exported", endpoint=sink.endpoint)
    return RecordedTraces(
        spans=Spans(resource=otlp.resource(environment, version), version=version),
        sampler=sampler,
        pipeline=Pipeline(exporter=sink, limits=otlp.queue_limits(environment), count=count, log=log),
        ends=ends,
        current_call=current_call,
        clock_ns=clock_ns,
    )
