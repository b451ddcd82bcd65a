"""The spans of a batch and of a call, made whole from what is known at their end. Names and attributes are those of
OpenTelemetry's semantic conventions where there is one; ours begin with `jobworker.`. Sends nothing, reads no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes.process_attributes import PROCESS_EXIT_CODE
from opentelemetry.semconv._incubating.attributes.rpc_attributes import (
    RPC_METHOD,
    RPC_RESPONSE_STATUS_CODE,
    RPC_SYSTEM_NAME,
)
from opentelemetry.semconv._incubating.attributes.user_attributes import USER_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, TraceFlags, TraceState
from opentelemetry.trace import StatusCode as SpanState

from jobworker.server.model import BatchState, JobEnd, JobState
from jobworker.server.telemetry import tracecontext
from jobworker.server.telemetry.tracecontext import Part

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

    from jobworker.server.ids import CorrelationId
    from jobworker.server.model import BatchHeader
    from jobworker.server.telemetry.records import BatchRecord, CallEnd, CallRecord, Ends

CORRELATION_ID = "jobworker.correlation_id"
JOB_INDEX = "jobworker.job.index"

FAILED_JOBS = frozenset({JobState.FAILED, JobState.TIMED_OUT, JobState.LOST})
# Of a server's spans, those alone are errors; the others are the client's.
# https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_STREAMS = frozenset({"/jobworker.v1.JobQueryService/StreamLogs", "/jobworker.v1.JobQueryService/SearchJob"})
_SCHEMA = Schemas.V1_44_0.value
_FLAGS = TraceFlags(TraceFlags.SAMPLED)
_STATE = TraceState()
_UNSET = Status(SpanState.UNSET)


class Spans:
    """Makes them, for one resource."""

    def __init__(self, *, resource: Resource, version: str) -> None:
        self._resource = resource
        self._scope = InstrumentationScope("jobworker", version, _SCHEMA)

    def of_batch(self, batch: BatchRecord, ends: Ends) -> Iterator[ReadableSpan]:
        """The batch, its acceptance, and for each of the jobs its wait and its run."""
        header = batch.header
        found, trace = header.correlation_id, tracecontext.trace_id(header.correlation_id)
        root = _context(trace, tracecontext.span_id(found, Part.ROOT))
        durable_at = batch.durable_at or max(ends.written_at, header.accepted_at)
        yield self._span("batch", root, None, header.accepted_at, batch.ended_at or durable_at,
            attributes=_batch_attributes(batch, ends),
            status=_error("not every job succeeded") if batch.state is BatchState.FAILED else _UNSET,
            links=_submitter(batch),
        )  # fmt: skip
        accept = _context(trace, tracecontext.span_id(found, Part.ACCEPT))
        yield self._span("accept", accept, root, header.accepted_at, durable_at, attributes={CORRELATION_ID: found})
        for index, end in ends.jobs:
            yield from self._of_job(header, trace, root, index, end)

    def _of_job(
        self, header: BatchHeader, trace: int, root: SpanContext, index: int, end: JobEnd
    ) -> Iterator[ReadableSpan]:
        found = header.correlation_id
        ended_at = max(end.ended_at or end.started_at or header.accepted_at, header.accepted_at)
        waited_until = ended_at if end.started_at is None else end.started_at
        status = _error(end.words()) if end.state in FAILED_JOBS else _UNSET
        about: dict[str, AttributeValue] = {CORRELATION_ID: found, JOB_INDEX: index}
        told = {**about, **_end_attributes(end)}
        ran = end.started_at is not None
        yield self._span("queue", _context(trace, tracecontext.span_id(found, Part.QUEUE, index)), root,
            header.accepted_at, waited_until,
            attributes=about if ran else told,
            status=_UNSET if ran else status,
        )  # fmt: skip
        if ran:
            context = _context(trace, tracecontext.span_id(found, Part.RUN, index))
            yield self._span("run", context, root, waited_until, ended_at, attributes=told, status=status)

    def of_call(self, call: CallRecord, end: CallEnd, *, batch_is_kept: bool) -> Iterator[ReadableSpan]:
        """The call: in its caller's trace, linked to the batch's; or, where the caller told none, in the batch's
        itself. A stream of logs is to be seen in the batch's trace in either case."""
        root = _root(end.batch) if end.batch is not None else None
        remote = call.remote
        links: tuple[Link, ...] = ()
        parent: SpanContext | None
        if remote is not None:
            state = TraceState.from_header([remote.state]) if remote.state else _STATE
            context = SpanContext(remote.trace_id, call.span_id, is_remote=False, trace_flags=_FLAGS, trace_state=state)
            parent = SpanContext(remote.trace_id, remote.span_id, is_remote=True, trace_flags=_FLAGS, trace_state=state)
            links = () if root is None else (Link(root),)
        elif root is not None:
            context, parent = _context(root.trace_id, call.span_id), root
        else:
            context, parent = _context(call.trace_id, call.span_id), None
        yield self._span(call.method.removeprefix("/"), context, parent, call.began_at, end.at,
            kind=SpanKind.SERVER,
            attributes=_call_attributes(call, end),
            status=_error(end.code) if end.code in _SERVER_ERRORS else _UNSET,
            links=links,
        )  # fmt: skip
        if remote is not None and root is not None and batch_is_kept and call.method in _STREAMS:
            # Beside the call's own id, which is used: one more of the same randomness.
            seen = _context(root.trace_id, call.trace_id & (1 << 64) - 1 or 1)
            yield self._span("logs", seen, root, call.began_at, end.at,
                attributes=_call_attributes(call, end), links=(Link(context),))  # fmt: skip

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        began_at: int,
        ended_at: int,
        *,
        attributes: Mapping[str, AttributeValue],
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _UNSET,
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status,
            links=links,
            start_time=began_at,
            end_time=max(began_at, ended_at),
            instrumentation_scope=self._scope,
        )


def call_context(call: CallRecord, batch: CorrelationId) -> SpanContext:
    """Where the span of a call about a batch is to be found."""
    trace = call.remote.trace_id if call.remote is not None else tracecontext.trace_id(batch)
    return _context(trace, call.span_id)


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_FLAGS, trace_state=_STATE)


def _root(correlation_id: CorrelationId) -> SpanContext:
    return _context(tracecontext.trace_id(correlation_id), tracecontext.span_id(correlation_id, Part.ROOT))


def _submitter(batch: BatchRecord) -> tuple[Link, ...]:
    """The call that brought it, where that is in a trace of its caller's."""
    call = batch.submitted_by
    if call is None or call.remote is None:
        return ()
    return (Link(call_context(call, batch.header.correlation_id)),)


def _error(words: str) -> Status:
    return Status(SpanState.ERROR, words)


def _batch_attributes(batch: BatchRecord, ends: Ends) -> dict[str, AttributeValue]:
    header = batch.header
    found: dict[str, AttributeValue] = {
        CORRELATION_ID: header.correlation_id,
        USER_NAME: header.user,
        "jobworker.batch.state": batch.state.name.lower(),
        "jobworker.batch.jobs": batch.job_count,
        "jobworker.batch.parallelism": header.parallelism,
    }
    if header.name:
        found["jobworker.batch.name"] = header.name
    for state, count in ends.counts.items():
        found[f"jobworker.batch.{state.name.lower()}"] = count
    if left_out := batch.job_count - len(ends.jobs):
        found["jobworker.batch.jobs_without_spans"] = left_out
    return found


def _end_attributes(end: JobEnd) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        "jobworker.job.state": end.state.name.lower(),
        "jobworker.job.end_reason": end.reason.name.lower(),
        "jobworker.job.log_bytes": sum(end.log_bytes),
    }
    if end.exit_code is not None:
        found[PROCESS_EXIT_CODE] = end.exit_code
    if end.signal is not None:
        found["jobworker.job.signal"] = end.signal
    if end.state in FAILED_JOBS:
        found[ERROR_TYPE] = end.reason.name.lower()
    if (usage := end.usage) is not None:
        found["jobworker.job.cpu_user_seconds"] = usage.user_us / 1e6
        found["jobworker.job.cpu_system_seconds"] = usage.system_us / 1e6
        if usage.peak_memory_bytes is not None:
            found["jobworker.job.peak_memory_bytes"] = usage.peak_memory_bytes
        found["jobworker.job.read_bytes"] = usage.read_bytes
        found["jobworker.job.written_bytes"] = usage.written_bytes
    return found


def _call_attributes(call: CallRecord, end: CallEnd) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        RPC_SYSTEM_NAME: "grpc",
        RPC_METHOD: call.method.removeprefix("/"),
        RPC_RESPONSE_STATUS_CODE: end.code,
        "jobworker.transport": call.transport,
    }
    if end.user is not None:
        found[USER_NAME] = end.user
    if end.batch is not None:
        found[CORRELATION_ID] = end.batch
    if end.code in _SERVER_ERRORS:
        found[ERROR_TYPE] = end.code
    return found
