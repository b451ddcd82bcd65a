"""JobQueryService: batches, their jobs and logs, read."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from jobworker.server.errors import PermissionDeniedError, invalid
from jobworker.server.ids import CorrelationId
from jobworker.server.logs import logquery
from jobworker.server.logs.budget import Hold
from jobworker.server.logs.merge import Merge
from jobworker.server.model import BatchState, JobState
from jobworker.server.rpc import convert, waiting
from jobworker.server.rpc.call import CURRENT, about, caller, scope
from jobworker.server.rpc.chunk import Chunks
from jobworker.server.rpc.search import Search
from jobworker.server.rpc.stall import Stall
from jobworker.server.store.batchfilter import BatchFilter, canonical_prefix
from jobworker.v1 import job_pb2, query_pb2, query_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobworker.server.logs.budget import Budget
    from jobworker.server.logs.logfile import LogFiles
    from jobworker.server.model import BatchView
    from jobworker.server.slices import Slices

# A batch with all its labels takes 20 KB, and clients take messages of 4 MiB.
_MAX_PAGE_BYTES = 1 << 20
_DEFAULT_PAGE, _MAX_PAGE = 50, 1000


class Find(Protocol):
    """Where batches are found; `user` None is anyone's."""

    def find(self, correlation_id: CorrelationId, *, user: str | None) -> BatchView: ...

    def list(
        self, *, user: str | None, wanted: BatchFilter, page_size: int, page_token: str, slices: Slices
    ) -> Awaitable[tuple[list[BatchView], str]]: ...


class QueryServicer(query_pb2_grpc.JobQueryServiceServicer):
    """See query.proto."""

    def __init__(
        self,
        *,
        batches: Find,
        files: LogFiles,
        stall_seconds: float,
        clock_ns: Callable[[], int],
        budget: Budget,
    ) -> None:
        """A stream whose client takes nothing for `stall_seconds` is cut."""
        self._batches = batches
        self._files = files
        self._slices = files.slices
        self._budget = budget
        self.stall_seconds = stall_seconds  # of streams that begin from now on
        self._chunks = Chunks(clock_ns=clock_ns)

    async def StreamLogs(self, request: query_pb2.StreamLogsRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Sends the exact bytes of logs."""
        batch = await self._load(request.correlation_id)
        wanted = await _log_query(batch, request, self._slices)
        stall = Stall(call=CURRENT.get(), stall_seconds=self.stall_seconds)
        # The next piece is read once the last one is on its way: the client's own pace, and one piece in memory.
        hold = self._hold()
        with stall:
            async with Merge(batch=batch, query=wanted, files=self._files, encoder=self._chunks, hold=hold) as merge:
                while (piece := await merge.next()) is not None:
                    stall.begin()
                    await context.write(piece)
                    stall.end()
                    hold.give()

    async def SearchJob(self, request: query_pb2.SearchJobRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Tells jobs in index order, each with its log as text."""
        batch = await self._load(request.correlation_id)
        hold = self._hold()
        search = Search(
            batch=batch,
            indexes=await logquery.selected(batch, request.job_index, self._slices),
            states=convert.states(request.state, JobState),
            follow=not request.snapshot,
            with_log=not request.omit_log,
            files=self._files,
            hold=hold,
        )
        stall = Stall(call=CURRENT.get(), stall_seconds=self.stall_seconds)
        with stall:
            async with aclosing(search.responses()) as responses:
                async for response in responses:
                    await hold.take()  # jobs without a log are sent too
                    stall.begin()
                    await context.write(response)
                    stall.end()
                    if not search.holding:
                        hold.give()

    async def GetBatch(self, request: query_pb2.GetBatchRequest, context: Any) -> job_pb2.Batch:  # noqa: ARG002, N802
        """A batch in counts."""
        return convert.batch(self._find(request.correlation_id))

    async def WaitBatch(self, request: query_pb2.WaitBatchRequest, context: Any) -> job_pb2.Batch:  # noqa: ARG002, N802
        """A batch in counts, once it is final or the time is over."""
        batch = self._find(request.correlation_id)
        timeout_seconds = convert.seconds(request.timeout, "timeout") if request.HasField("timeout") else None
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiting.until_final(batch)
        except TimeoutError:
            pass  # as it is, then
        return convert.batch(batch)

    async def ListBatches(  # noqa: N802
        self,
        request: query_pb2.ListBatchesRequest,
        context: Any,  # noqa: ARG002
    ) -> query_pb2.ListBatchesResponse:
        """A page of batches."""
        user = scope()
        if user is None:
            user = request.user or None
        elif request.user not in ("", user):
            raise PermissionDeniedError(f"{caller().user} sees no batches of others")
        page_size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        if page_size > _DEFAULT_PAGE:
            await self._hold().take()
        page, next_token = await self._batches.list(
            user=user,
            wanted=_filter(request),
            page_size=page_size,
            page_token=request.page_token,
            slices=self._slices,
        )
        response = query_pb2.ListBatchesResponse(next_page_token=next_token)
        left = _MAX_PAGE_BYTES
        async for batch in self._slices.each(page):
            message = convert.batch(batch)
            left -= message.ByteSize()
            if left < 0 and response.batches:
                response.next_page_token = response.batches[-1].correlation_id
                break
            response.batches.append(message)
        return response

    async def _load(self, correlation_id: str) -> BatchView:
        batch = self._find(correlation_id)
        await batch.load(self._slices.in_thread)
        return batch

    def _hold(self) -> Hold:
        """For what is on its way to the current caller."""
        call = CURRENT.get()
        hold = Hold(budget=self._budget, user=caller().user, cut=call.cut)
        call.at_end.append(hold.give)
        return hold

    def _find(self, correlation_id: str) -> BatchView:
        return self._batches.find(about(correlation_id), user=scope())


async def _log_query(batch: BatchView, request: query_pb2.StreamLogsRequest, slices: Slices) -> logquery.LogQuery:
    indexes = await logquery.selected(batch, request.job_index, slices)
    starts = await logquery.starts(
        batch,
        (
            logquery.Cursor(c.job_index, convert.stream(c.stream, f"cursors[{i}].stream"), c.offset)
            for i, c in enumerate(request.cursors)
        ),
        slices,
    )
    if request.offset:
        if len(request.job_index) != 1:
            raise invalid("offset", "goes with exactly one job_index; use cursors")
        if starts:
            raise invalid("offset", "cannot be given together with cursors")
        starts = await logquery.starts(
            batch, [logquery.Cursor(indexes[0], None, request.offset)], slices, field="offset"
        )
    return logquery.LogQuery(
        indexes=indexes,
        starts=starts,
        follow=not request.no_follow,
        tail_bytes=request.tail_bytes,
        tail_lines=request.tail_lines,
    )


def _filter(request: query_pb2.ListBatchesRequest) -> BatchFilter:
    return BatchFilter(
        states=convert.states(request.state, BatchState),
        id_prefix=canonical_prefix(request.id_prefix),
        name=request.name,
        labels=dict(request.labels),
        since_ns=convert.unix_ns(request.since, "since") if request.HasField("since") else None,
        until_ns=convert.unix_ns(request.until, "until") if request.HasField("until") else None,
    )
