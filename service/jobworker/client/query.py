"""Asking about batches: waiting for one, its jobs, and lists of them."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc.aio

from jobworker.client.connection import Connection, Metadata, Tries
from jobworker.client.retry import Backoff, passes_by_itself
from jobworker.v1.job_pb2 import BATCH_STATE_RUNNING
from jobworker.v1.query_pb2 import (
    GetBatchRequest,
    ListBatchesRequest,
    SearchJobRequest,
    SearchJobResponse,
    WaitBatchRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from jobworker.client.links import Link
    from jobworker.v1.job_pb2 import Batch

# Progress is told when a tenth as long again has passed, within these bounds: some 80 calls in the first hour.
_PROGRESS_SHARE = 0.1
_PROGRESS_SECONDS_LEAST, _PROGRESS_SECONDS_MOST = 1.0, 120.0


async def wait(
    connection: Connection,
    correlation_id: str,
    *,
    timeout_seconds: float | None,
    patience_seconds: float,
    progress: Callable[[Batch], object] | None,
) -> Batch:
    """The batch once it is final, or as it is when `timeout_seconds` have passed; over restarts of the service.

    Without `progress` it is one call, after one look. With it the call ends now and then, for the batch to be told.
    """
    # A service that is not there at all is told soon; one that goes while we wait is waited for.
    first = GetBatchRequest(correlation_id=correlation_id)
    batch = await connection.call(lambda link, pairs: link.query.GetBatch(first, metadata=pairs))
    now = asyncio.get_running_loop().time
    began = now()
    end = math.inf if timeout_seconds is None else began + timeout_seconds
    told = math.inf  # until when a call may last

    async def attempt(link: Link, pairs: Metadata) -> Batch:
        request = WaitBatchRequest(correlation_id=correlation_id)
        if (last := min(end, told)) < math.inf:
            request.timeout.FromTimedelta(timedelta(seconds=max(0.0, last - now())))
        return await link.query.WaitBatch(request, metadata=pairs)

    while batch.state <= BATCH_STATE_RUNNING:
        if progress is not None:
            progress(batch)
            pause = (now() - began) * _PROGRESS_SHARE
            told = now() + min(max(pause, _PROGRESS_SECONDS_LEAST), _PROGRESS_SECONDS_MOST)
        batch = await connection.call(attempt, patience_seconds=patience_seconds)
        if now() >= end:
            break
    return batch


async def search(connection: Connection, request: SearchJobRequest) -> AsyncGenerator[SearchJobResponse, None]:
    """What SearchJob tells. A call that fails before it told anything is made again, as `Connection.call` does; without
    logs, when each job is one message, also one that is cut later: it goes on behind the last job that was told."""
    backoff = Backoff(patience_seconds=connection.patience_seconds)
    tries = Tries(connection)
    begun = False
    last = -1  # index of a job
    while True:
        behind = last
        try:
            async with tries.one() as (link, pairs):
                call = link.query.SearchJob(request, metadata=pairs)
                try:
                    async for response in call:
                        if request.omit_log and response.job.index <= behind:
                            continue
                        begun, last = True, response.job.index
                        backoff.progress()
                        tries.progress()
                        yield response
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as raw:
            error = await connection.failure(raw)
        else:
            return
        if begun and not request.omit_log:
            raise error
        left = await tries.mend(error)
        if left is None:
            continue
        if not passes_by_itself(left):
            raise left
        await asyncio.sleep(backoff.next(left).pause_seconds)


async def list_batches(connection: Connection, request: ListBatchesRequest) -> AsyncGenerator[Batch, None]:
    """Batches, newest first, page after page."""
    while True:
        page = await connection.call(lambda link, pairs: link.query.ListBatches(request, metadata=pairs))
        for batch in page.batches:
            yield batch
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
