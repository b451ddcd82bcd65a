"""Asking about batches: waiting for one, its jobs, and lists of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc.aio

from jobworker.client.connection import Connection, Metadata, metadata
from jobworker.client.errors import JobworkerError, from_rpc
from jobworker.client.retry import Backoff, passes_by_itself
from jobworker.v1.query_pb2 import (
    GetBatchRequest,
    ListBatchesRequest,
    SearchJobRequest,
    SearchJobResponse,
    WaitBatchRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jobworker.v1.job_pb2 import Batch


async def wait(
    connection: Connection, correlation_id: str, *, timeout_seconds: float | None, patience_seconds: float
) -> Batch:
    """The batch once it is final, or as it is when `timeout_seconds` have passed; over restarts of the service."""
    # A service that is not there at all is told soon; one that goes while we wait is waited for.
    first = GetBatchRequest(correlation_id=correlation_id)
    await connection.call(lambda pairs: connection.query.GetBatch(first, metadata=pairs))
    now = asyncio.get_running_loop().time
    end = None if timeout_seconds is None else now() + timeout_seconds

    async def attempt(pairs: Metadata) -> Batch:
        request = WaitBatchRequest(correlation_id=correlation_id)
        if end is not None:
            request.timeout.FromTimedelta(timedelta(seconds=max(0.0, end - now())))
        return await connection.query.WaitBatch(request, metadata=pairs)

    return await connection.call(attempt, patience_seconds=patience_seconds)


async def search(connection: Connection, request: SearchJobRequest) -> AsyncGenerator[SearchJobResponse, None]:
    """What SearchJob tells. A call that fails before it told anything is made again, as `Connection.call` does."""
    backoff = Backoff(patience_seconds=connection.patience_seconds)
    begun = renewed = False
    while True:
        token = await connection.token()
        call = connection.query.SearchJob(request, metadata=metadata(token))
        try:
            async for response in call:
                begun = True
                yield response
        except grpc.aio.AioRpcError as raw:
            error: JobworkerError = from_rpc(raw)
        else:
            return
        finally:
            call.cancel()
        if begun:
            raise error
        if not renewed and await connection.renew(error, token):
            renewed = True
        elif passes_by_itself(error):
            await asyncio.sleep(backoff.next(error).pause_seconds)
        else:
            raise error


async def list_batches(connection: Connection, request: ListBatchesRequest) -> AsyncGenerator[Batch, None]:
    """Batches, newest first, page after page."""
    while True:
        page = await connection.call(lambda pairs: connection.query.ListBatches(request, metadata=pairs))
        for batch in page.batches:
            yield batch
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
