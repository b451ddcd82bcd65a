"""JobScheduleService: batches in, and their early ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from jobworker.server.errors import invalid
from jobworker.server.ids import CorrelationId
from jobworker.server.logs import logquery
from jobworker.server.rpc import convert
from jobworker.server.rpc.call import CURRENT, about, caller, scope
from jobworker.server.rpc.interceptors import echo_correlation
from jobworker.v1 import job_pb2, schedule_pb2, schedule_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from jobworker.server.model import BatchOptions, BatchView, JobSpec
    from jobworker.server.rpc.query import Find
    from jobworker.server.slices import Slices


class Accepted(Protocol):
    """A batch that is on disk."""

    @property
    def correlation_id(self) -> CorrelationId: ...

    @property
    def duplicate(self) -> bool: ...

    @property
    def accepted_at(self) -> int: ...

    @property
    def job_count(self) -> int: ...


class Intake(Protocol):
    """A batch on its way in."""

    def add(self, spec: JobSpec, options: BatchOptions | None) -> Awaitable[None]: ...

    def commit(self) -> Awaitable[Accepted]: ...

    def abort(self) -> None: ...


class Accept(Protocol):
    """Who takes batches in."""

    def begin(self, *, user: str, correlation_id: CorrelationId | None, single: bool) -> Intake: ...


class Cancel(Protocol):
    """Who ends batches early."""

    def cancel(self, batch: BatchView, *, wanted: bytearray | None, grace_seconds: float | None) -> Awaitable[None]: ...


class ScheduleServicer(schedule_pb2_grpc.JobScheduleServiceServicer):
    """See schedule.proto."""

    def __init__(self, *, acceptor: Accept, batches: Find, scheduler: Cancel, slices: Slices) -> None:
        self._acceptor = acceptor
        self._batches = batches
        self._scheduler = scheduler
        self._slices = slices

    async def ExecuteJob(self, request: schedule_pb2.JobRequest, context: Any) -> schedule_pb2.JobResponse:  # noqa: N802
        """Takes a batch of one job."""
        intake = self._begin(single=True)
        try:
            if request.jobs:
                raise invalid("jobs", "is for ExecuteJobs")
            await _add(intake, request, "")
            if CURRENT.get().correlation_id is not None:
                await echo_correlation(CURRENT.get(), context)
            return _response(await intake.commit())
        finally:
            intake.abort()  # nothing, once it is committed

    async def ExecuteJobs(  # noqa: N802
        self, request_iterator: AsyncIterator[schedule_pb2.JobRequest], context: Any
    ) -> schedule_pb2.JobResponse:
        """Takes a batch of as many jobs as come, one message in memory at a time."""
        intake = self._begin(single=False)
        try:
            count = 0
            async for request in request_iterator:
                if count and request.HasField("batch"):
                    raise invalid(f"jobs[{count}].batch", "is allowed on the first message alone")
                count += await _add_all(intake, request, count, self._slices)
            if not count:
                raise invalid("jobs", "is empty: a batch has at least one job")
            # The stream has ended: because the client was done, or because it is gone? Half a batch must not run.
            await echo_correlation(CURRENT.get(), context)
            return _response(await intake.commit())
        finally:
            intake.abort()

    async def CancelBatch(self, request: schedule_pb2.CancelBatchRequest, context: Any) -> job_pb2.Batch:  # noqa: ARG002, N802
        """Ends jobs, and answers once they are final."""
        batch = self._batches.find(about(request.correlation_id), user=scope())
        grace_seconds = convert.seconds(request.grace, "grace") if request.HasField("grace") else None
        wanted = await logquery.marked(batch, request.job_index, self._slices) if request.job_index else None
        CURRENT.get().audit = {"owner": batch.header.user, "jobs": len(request.job_index) or batch.job_count}
        await self._scheduler.cancel(batch, wanted=wanted, grace_seconds=grace_seconds)
        return convert.batch(batch)

    def _begin(self, *, single: bool) -> Intake:
        return self._acceptor.begin(user=caller().user, correlation_id=CURRENT.get().correlation_id, single=single)


async def _add(intake: Intake, request: schedule_pb2.JobRequest, path: str) -> None:
    options = convert.batch_options(request.batch) if request.HasField("batch") else None
    await intake.add(convert.job_spec(request, path), options)


async def _add_all(intake: Intake, request: schedule_pb2.JobRequest, count: int, slices: Slices) -> int:
    """Adds the jobs of a message, `count` of the batch being there already; returns how many it held."""
    if not request.jobs:
        await _add(intake, request, f"jobs[{count}].")
        return 1
    if any(field.name not in ("jobs", "batch") for field, _ in request.ListFields()):
        raise invalid(f"jobs[{count}]", "has both `jobs` and a job of its own")
    options = convert.batch_options(request.batch) if request.HasField("batch") else None
    async for i, job in slices.each(enumerate(request.jobs, count)):  # a message may hold thousands
        if job.jobs or job.HasField("batch"):
            raise invalid(f"jobs[{i}].{'jobs' if job.jobs else 'batch'}", "is not allowed inside of `jobs`")
        await intake.add(convert.job_spec(job, f"jobs[{i}]."), options)
        options = None
    return len(request.jobs)


def _response(accepted: Accepted) -> schedule_pb2.JobResponse:
    call, result = CURRENT.get(), "DUPLICATE" if accepted.duplicate else "ACCEPTED"
    call.batch = accepted.correlation_id
    call.audit = {"jobs": accepted.job_count, "result": result}
    return schedule_pb2.JobResponse(
        correlation_id=accepted.correlation_id,
        result=result,
        executed_at=convert.timestamp(accepted.accepted_at),
        job_count=accepted.job_count,
    )
