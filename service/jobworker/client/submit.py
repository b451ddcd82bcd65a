"""Submitting a batch, so that it is accepted once however often it has to be sent.

That rests on its name: the service answers DUPLICATE to the same id with the same content.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING

from jobworker.client.errors import InvalidArgumentError
from jobworker.client.ids import new_correlation_id
from jobworker.client.sending import Sending
from jobworker.v1.schedule_pb2 import JobRequest, JobResponse

if TYPE_CHECKING:
    from jobworker.client.clock import ServerClock
    from jobworker.client.connection import Connection, Metadata
    from jobworker.client.links import Link
    from jobworker.v1.job_pb2 import BatchOptions


# Small enough for the service's limit of 4 MiB whatever the jobs, and for both sides to take turns.
_MESSAGE_JOBS = 250
_MESSAGE_BYTES = 256 << 10
_TIME_DIGITS = 15  # of milliseconds since 1970; a UUIDv7 has room for as many
_FRAMING_BYTES = 6  # tag and length of a job in its message

Jobs = Iterable[JobRequest] | AsyncIterable[JobRequest]


async def submit(
    connection: Connection,
    jobs: JobRequest | Jobs,
    *,
    correlation_id: str | None = None,
    options: BatchOptions | None = None,
) -> JobResponse:
    """Submits one job, or many as one batch, under the name `correlation_id`, or one that is made here; `options` are
    those of the batch.

    Jobs are taken one by one as the service takes them. While the service is away they are sent again, from the start;
    what can be iterated only once (a generator) is sent only once, and whether it was accepted is then open after an
    UnavailableError: `get` of the id tells.

    Raises:
        JobworkerError: the batch was refused as a whole, or the service stays away.
        Exception: whatever `jobs` raises; nothing was accepted then.
    """
    name = correlation_id

    def named(pairs: Metadata) -> Metadata:
        """With the name, which is made once there is a token: what has logged in knows the service's clock."""
        nonlocal name
        if name is None:
            name = new_correlation_id(int(connection.clock.now() * 1000))
        return (*pairs, ("x-correlation-id", name))

    if isinstance(jobs, JobRequest):
        job = jobs if options is None else _with(jobs, options)
        once = False

        async def attempt(link: Link, pairs: Metadata) -> JobResponse:
            return await link.schedule.ExecuteJob(job, metadata=named(pairs))

    else:
        stream = jobs  # narrowed for the closure
        once = isinstance(jobs, Iterator | AsyncIterator)

        async def attempt(link: Link, pairs: Metadata) -> JobResponse:
            sending = Sending(link.schedule.ExecuteJobs(metadata=named(pairs)))
            try:
                await _send(sending, _each(stream), options)
                return await sending.answer()
            finally:
                sending.cancel()  # an exception out of `jobs`: the service must not take the half for the whole

    try:
        return await connection.call(attempt, again=not once, renewable=not once)
    except InvalidArgumentError as error:
        if correlation_id is not None or not _learn(connection.clock, error) or once:
            raise
    name = None
    return await connection.call(attempt)


def _learn(clock: ServerClock, error: InvalidArgumentError) -> bool:
    """Whether a batch was refused for the time in its name; then the refusal says what time it is at the service."""
    theirs = error.metadata.get("server_time_ms", "") if error.reason == "ID_NOT_OF_TODAY" else ""
    if not (theirs.isascii() and theirs.isdigit() and len(theirs) <= _TIME_DIGITS):
        return False
    clock.learn(int(theirs) / 1000)
    return True


async def _send(sending: Sending, jobs: AsyncIterator[JobRequest], options: BatchOptions | None) -> None:
    """Sends all jobs, or as many as the service takes before it answers."""
    async for message in _packed(jobs, options):
        if not await sending.send(message):
            return
    await sending.finish()


async def _packed(jobs: AsyncIterator[JobRequest], options: BatchOptions | None) -> AsyncIterator[JobRequest]:
    """The jobs in few messages: one costs both sides as much as dozens of small jobs in it. None is over _MESSAGE_BYTES
    but for a job that is so by itself. What the first job says of its batch comes before `options`."""
    message, size, first = JobRequest(), 0, True
    async for job in jobs:
        own = job.ByteSize()
        if message.jobs and (len(message.jobs) == _MESSAGE_JOBS or size + own > _MESSAGE_BYTES):
            yield message
            message, size = JobRequest(), 0
        packed = message.jobs.add()
        packed.CopyFrom(job)
        size += own + _FRAMING_BYTES
        if first:
            _move_options(packed, message, options)
            first = False
    if message.jobs:
        yield message


def _move_options(job: JobRequest, message: JobRequest, options: BatchOptions | None) -> None:
    if options is not None:
        message.batch.MergeFrom(options)
    if job.HasField("batch"):
        message.batch.MergeFrom(job.batch)
        job.ClearField("batch")


async def _each(jobs: Jobs) -> AsyncIterator[JobRequest]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job


def _with(job: JobRequest, options: BatchOptions) -> JobRequest:
    """A copy that carries the options; what the job itself says of its batch comes first."""
    copy = JobRequest()
    copy.CopyFrom(job)
    copy.batch.Clear()
    copy.batch.MergeFrom(options)
    copy.batch.MergeFrom(job.batch)
    return copy
