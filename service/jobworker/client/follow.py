"""Following logs over cuts: a stream that breaks is asked for again from where it was.

Nothing here knows what the bytes mean or where they go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import grpc.aio

from jobworker.client.connection import Connection, Tries
from jobworker.client.cursor import Position
from jobworker.client.errors import CutError, JobworkerError, OutOfRangeError
from jobworker.client.retry import Backoff, Retry, asks_for_another_try, passes_by_itself
from jobworker.v1.query_pb2 import GetBatchRequest, LogChunk, StreamLogsRequest

Notice = Callable[[Retry], None]


class Follower:
    """One follow, over as many streams as it takes."""

    def __init__(
        self,
        connection: Connection,
        request: StreamLogsRequest,
        *,
        patience_seconds: float,
        notice: Notice | None = None,
    ) -> None:
        """`patience_seconds` is how long in a row the service may be away; for the very first call it is the patience
        of the connection. `notice` is told of each cut that is about to be mended.
        """
        self._connection = connection
        self._request = request
        self._notice = notice
        self._position = Position(request)
        self._backoff = Backoff(patience_seconds=patience_seconds)
        self._tries = Tries(connection)

    async def chunks(self) -> AsyncGenerator[LogChunk, None]:
        """Each piece of the logs, once and in each log's order, until every log had its end (with `no_follow`: until
        the service has sent what there is).

        Raises:
            JobworkerError: the service refuses, or stays away.
        """
        job_count = await self._count_jobs()
        while True:
            try:
                async with aclosing(self._stream(job_count)) as stream:
                    async for chunk in stream:
                        yield chunk
                break
            except JobworkerError as error:
                left = await self._tries.mend(error) if self._tries.begun else error
                if left is not None:
                    await self._pause(left)

    async def _stream(self, job_count: int) -> AsyncGenerator[LogChunk, None]:
        """What one call brings that is new."""
        async with self._tries.one() as (link, pairs):
            call = link.query.StreamLogs(self._position.request(job_count), metadata=pairs)
            try:
                async for chunk in call:
                    fresh = self._position.take(chunk)
                    if fresh is not None:
                        self._backoff.progress()
                        self._tries.progress()
                        yield fresh
            except grpc.aio.AioRpcError as error:
                raise await self._connection.failure(error) from None
            finally:
                call.cancel()
        if not self._request.no_follow and not self._position.complete(job_count):
            raise CutError("the stream of logs ended before the logs did")

    async def _pause(self, error: JobworkerError) -> None:
        """Waits for the service to come back; raises what is not a reason to."""
        if isinstance(error, OutOfRangeError) and (words := self._position.shorten(error)) is not None:
            if self._notice is not None:
                self._notice(Retry(OutOfRangeError(words, metadata=error.metadata), 0.0))
            return
        if not passes_by_itself(error) and not asks_for_another_try(error):
            raise error
        retry = self._backoff.next(error)
        if self._notice is not None:
            self._notice(retry)
        await asyncio.sleep(retry.pause_seconds)

    async def _count_jobs(self) -> int:
        """How many jobs the batch has: only so is it known, of jobs that say nothing, that their logs are complete."""
        request = GetBatchRequest(correlation_id=self._request.correlation_id)
        batch = await self._connection.call(lambda link, pairs: link.query.GetBatch(request, metadata=pairs))
        return batch.job_count
