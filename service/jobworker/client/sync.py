"""The client without asyncio: the same methods, run on an event loop in a thread of its own. Iterators are plain ones.

The user's own iterables and callbacks: jobs are iterated in the caller's thread (they may be a database cursor), a
`notice` is called in the loop's.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self, TypeVar

from jobworker.client import connect
from jobworker.client.admin import SyncAdmin
from jobworker.client.bundle import Bundle, BundleFolder
from jobworker.client.connect import LONG_PATIENCE_SECONDS, PATIENCE_SECONDS
from jobworker.v1.schedule_pb2 import JobRequest, JobResponse

if TYPE_CHECKING:
    import os
    from datetime import datetime
    from types import TracebackType

    from jobworker.client.follow import Notice
    from jobworker.client.tokens import Token, TokenSource
    from jobworker.v1.auth_pb2 import WhoAmIResponse
    from jobworker.v1.job_pb2 import Batch, BatchOptions, BatchState, Job, JobState
    from jobworker.v1.query_pb2 import LogChunk, LogCursor, SearchJobResponse

_T = TypeVar("_T")

_PIECE_JOBS = 64  # handed over between the threads at a time


class Client:
    """`connect.Client` for programs without an event loop; see there. Use it from one thread at a time."""

    def __init__(
        self,
        *,
        address: str,
        bundle: Bundle | str | os.PathLike[str],
        token: str | TokenSource | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        server_name: str | None = None,
    ) -> None:
        read = bundle if isinstance(bundle, Bundle) else BundleFolder(bundle)  # raises before there is a thread

        async def make() -> connect.Client:
            return connect.Client(
                address=address,
                bundle=read,
                token=token,
                patience_seconds=patience_seconds,
                server_name=server_name,
            )

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jobworker-client", daemon=True)
        self._thread.start()
        self._client = self._run(make())
        self.admin = SyncAdmin(self._client.admin, self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call, the connection and the thread."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def login(self, username: str, password: str) -> Token:
        """See `connect.Client.login`."""
        return self._run(self._client.login(username, password))

    def submit(
        self,
        jobs: JobRequest | Iterable[JobRequest],
        *,
        options: BatchOptions | None = None,
        correlation_id: str | None = None,
    ) -> JobResponse:
        """See `connect.Client.submit`."""
        if isinstance(jobs, JobRequest):
            return self._run(self._client.submit(jobs, options=options, correlation_id=correlation_id))
        feed = _Feed(jobs, self._loop)
        stream = aiter(feed) if isinstance(jobs, Iterator) else feed  # what can be iterated once is sent once
        submitted = self._start(self._client.submit(stream, options=options, correlation_id=correlation_id))
        submitted.add_done_callback(lambda _: feed.stop())
        try:
            feed.serve()
        except BaseException:
            submitted.cancel()
            raise
        return submitted.result()

    def follow(
        self,
        correlation_id: str,
        *,
        job_index: Iterable[int] = (),
        cursors: Iterable[LogCursor] = (),
        snapshot: bool = False,
        tail_bytes: int = 0,
        tail_lines: int = 0,
        patience_seconds: float = LONG_PATIENCE_SECONDS,
        notice: Notice | None = None,
    ) -> Generator[LogChunk, None, None]:
        """See `connect.Client.follow`."""
        return self._each(
            self._client.follow(
                correlation_id,
                job_index=job_index,
                cursors=cursors,
                snapshot=snapshot,
                tail_bytes=tail_bytes,
                tail_lines=tail_lines,
                patience_seconds=patience_seconds,
                notice=notice,
            )
        )

    def logout(self) -> None:
        """See `connect.Client.logout`."""
        self._run(self._client.logout())

    def whoami(self) -> WhoAmIResponse:
        """See `connect.Client.whoami`."""
        return self._run(self._client.whoami())

    def get(self, correlation_id: str) -> Batch:
        """See `connect.Client.get`."""
        return self._run(self._client.get(correlation_id))

    def wait(
        self,
        correlation_id: str,
        *,
        timeout_seconds: float | None = None,
        patience_seconds: float = LONG_PATIENCE_SECONDS,
        progress: Callable[[Batch], object] | None = None,
    ) -> Batch:
        """See `connect.Client.wait`."""
        return self._run(
            self._client.wait(
                correlation_id, timeout_seconds=timeout_seconds, patience_seconds=patience_seconds, progress=progress
            )
        )

    def cancel(
        self, correlation_id: str, *, job_index: Sequence[int] = (), grace_seconds: float | None = None
    ) -> Batch:
        """See `connect.Client.cancel`."""
        return self._run(self._client.cancel(correlation_id, job_index=job_index, grace_seconds=grace_seconds))

    def search(
        self,
        correlation_id: str,
        *,
        job_index: Sequence[int] = (),
        state: Sequence[JobState.ValueType] = (),
        omit_log: bool = False,
        snapshot: bool = False,
    ) -> Generator[SearchJobResponse, None, None]:
        """See `connect.Client.search`."""
        return self._each(
            self._client.search(correlation_id, job_index=job_index, state=state, omit_log=omit_log, snapshot=snapshot)
        )

    def jobs(
        self, correlation_id: str, *, job_index: Sequence[int] = (), state: Sequence[JobState.ValueType] = ()
    ) -> Generator[Job, None, None]:
        """See `connect.Client.jobs`."""
        return self._each(self._client.jobs(correlation_id, job_index=job_index, state=state))

    def list_batches(
        self,
        *,
        state: Sequence[BatchState.ValueType] = (),
        user: str = "",
        name: str = "",
        labels: Mapping[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        id_prefix: str = "",
        page_size: int = 0,
    ) -> Generator[Batch, None, None]:
        """See `connect.Client.list_batches`."""
        return self._each(
            self._client.list_batches(
                state=state,
                user=user,
                name=name,
                labels=labels,
                since=since,
                until=until,
                id_prefix=id_prefix,
                page_size=page_size,
            )
        )

    def _start(self, work: Coroutine[None, None, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[None, None, _T]) -> _T:
        future = self._start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # KeyboardInterrupt in the caller's thread ends the call too
            raise

    def _each(self, source: AsyncGenerator[_T, None]) -> Generator[_T, None, None]:
        async def following() -> tuple[_T] | None:
            async for item in source:
                return (item,)
            return None

        try:
            while (item := self._run(following())) is not None:
                yield item[0]
        finally:
            if not self._loop.is_closed():
                self._run(source.aclose())


class _Feed:
    """Jobs iterated in one thread and sent in another: `serve` runs here, `async for` there, anew each time."""

    def __init__(self, jobs: Iterable[JobRequest], loop: asyncio.AbstractEventLoop) -> None:
        self._jobs = jobs
        self._loop = loop
        self._iterator: Iterator[JobRequest] = iter(())
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def serve(self) -> None:
        """Iterates as it is asked, until `stop`."""
        while (step := self._asked.get()) is not None:
            step()

    def stop(self) -> None:
        self._asked.put(None)

    def __aiter__(self) -> AsyncIterator[JobRequest]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[JobRequest]:
        await self._ask(self._begin)
        while piece := await self._ask(self._next):
            for job in piece:
                yield job

    async def _ask(self, step: Callable[[], list[JobRequest]]) -> list[JobRequest]:
        """Has a step done in the caller's thread."""
        answer: Future[list[JobRequest]] = Future()

        def do() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(step())
            except Exception as error:
                answer.set_exception(error)

        self._asked.put(do)
        return await asyncio.wrap_future(answer)

    def _begin(self) -> list[JobRequest]:
        self._iterator = iter(self._jobs)
        return []

    def _next(self) -> list[JobRequest]:
        return list(itertools.islice(self._iterator, _PIECE_JOBS))
