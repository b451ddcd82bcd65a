"""The client: one object with a method for each thing the service does. What each takes is in its own file."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from google.protobuf.duration_pb2 import Duration

from jobworker.client.admin import Admin
from jobworker.client.bundle import Bundle, BundleFolder
from jobworker.client.connection import Connection
from jobworker.client.follow import Follower, Notice
from jobworker.client.query import list_batches, search, wait
from jobworker.client.submit import Jobs, submit
from jobworker.client.tokens import FixedToken, Token, TokenSource
from jobworker.v1.auth_pb2 import LogoutRequest, WhoAmIRequest, WhoAmIResponse
from jobworker.v1.query_pb2 import (
    GetBatchRequest,
    ListBatchesRequest,
    LogChunk,
    LogCursor,
    SearchJobRequest,
    SearchJobResponse,
    StreamLogsRequest,
)
from jobworker.v1.schedule_pb2 import CancelBatchRequest, JobRequest, JobResponse

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    import grpc.aio

    from jobworker.client.clock import ServerClock
    from jobworker.v1.job_pb2 import Batch, BatchOptions, BatchState, Job, JobState

PATIENCE_SECONDS = 10.0  # of a call, when the service cannot be reached at all
LONG_PATIENCE_SECONDS = 300.0  # of those who wait for a batch anyway: a restart, an upgrade


class Client:
    """A connection to the service over mutual TLS. It belongs to the event loop it was made on.

    Every method raises a JobworkerError (`jobworker.client.errors`) when the service refuses or cannot be reached.
    """

    def __init__(
        self,
        *,
        address: str,
        bundle: Bundle | BundleFolder | str | os.PathLike[str],
        token: str | TokenSource | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        server_name: str | None = None,
        clock: ServerClock | None = None,
    ) -> None:
        """`address` is host:port; `bundle` a folder with ca.crt, tls.crt and tls.key, which is taken up when it is
        renewed, or a bundle that was read; `token` the text of one or a source such as PasswordLogin (None: only
        `login` works). `patience_seconds` is how long a call is tried again while the service is away. `server_name` is
        the name in the service's certificate, where it is not the host of `address`. `clock` has what is known of the
        service's clock before the first login.

        Raises:
            BundleError: a file of the bundle cannot be read.
        """
        self._connection = Connection(
            address=address,
            bundle=bundle if isinstance(bundle, Bundle | BundleFolder) else BundleFolder(bundle),
            tokens=FixedToken(token) if isinstance(token, str) else token,
            patience_seconds=patience_seconds,
            server_name=server_name,
            clock=clock,
        )
        self.admin = Admin(self._connection)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, for calls that have no method here. Ask for it at each: with a renewed bundle it is another."""
        return self._connection.links.lend()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call and the connection."""
        await self._connection.close()

    def now(self) -> float:
        """The time at the service, in seconds since 1970, as far as the login or a refusal has told; else here."""
        return self._connection.clock.now()

    async def login(self, username: str, password: str) -> Token:
        """A token for the user that the bundle's certificate names. It is not kept here."""
        return await self._connection.login(username, password)

    async def submit(
        self, jobs: JobRequest | Jobs, *, options: BatchOptions | None = None, correlation_id: str | None = None
    ) -> JobResponse:
        """Submits one job, or an iterable of them as one batch; it is on disk when this returns. See `submit.submit`.

        The batch is named here unless `correlation_id` does, so a lost answer costs nothing: it is sent again under the
        same name, and `result` may then be DUPLICATE. The name has the time in it that it is at the service, as far as
        the login or a refusal has told.
        """
        return await submit(self._connection, jobs, correlation_id=correlation_id, options=options)

    async def follow(
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
    ) -> AsyncGenerator[LogChunk, None]:
        """Each piece of the logs of a batch or of some of its jobs, exact bytes, until every log had its `end`.

        A stream that is cut is taken up where it was: no byte twice, none missing. `snapshot` is what there is now,
        instead of following; `tail_*` only the last so many bytes or lines of what a log has now. `patience_seconds` is
        how long in a row the service may be away, `notice` is told of each cut. Where a power failure of the service's
        machine took the end of a log, what came of it before stays with whoever has it: `notice` is told with an
        OutOfRangeError which bytes are not there any more, and the log goes on from its end.

        Raises:
            OutOfRangeError: one of `cursors` is beyond the end of its log.
        """
        request = StreamLogsRequest(
            correlation_id=correlation_id,
            cursors=cursors,
            job_index=job_index,
            no_follow=snapshot,
            tail_bytes=tail_bytes,
            tail_lines=tail_lines,
        )
        follower = Follower(self._connection, request, patience_seconds=patience_seconds, notice=notice)
        async with aclosing(follower.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def logout(self) -> None:
        """Ends the token that is in use, at the service: nobody who has a copy of it can use it any more. A client that
        has a source of passwords logs in again at its next call."""
        await self._connection.call(
            lambda link, pairs: link.auth.Logout(LogoutRequest(), metadata=pairs), renewable=False
        )

    async def whoami(self) -> WhoAmIResponse:
        """Who we are to the service, and what we may do now."""
        request = WhoAmIRequest()
        return await self._connection.call(lambda link, pairs: link.auth.WhoAmI(request, metadata=pairs))

    async def get(self, correlation_id: str) -> Batch:
        """A batch in counts."""
        request = GetBatchRequest(correlation_id=correlation_id)
        return await self._connection.call(lambda link, pairs: link.query.GetBatch(request, metadata=pairs))

    async def wait(
        self,
        correlation_id: str,
        *,
        timeout_seconds: float | None = None,
        patience_seconds: float = LONG_PATIENCE_SECONDS,
        progress: Callable[[Batch], object] | None = None,
    ) -> Batch:
        """The batch once it is final, or as it is when `timeout_seconds` have passed. `patience_seconds` is how long in
        a row the service may be away meanwhile. `progress` is told of the batch at the beginning and, the longer it
        lasts the less often, as it is then.
        """
        return await wait(
            self._connection,
            correlation_id,
            timeout_seconds=timeout_seconds,
            patience_seconds=patience_seconds,
            progress=progress,
        )

    async def cancel(
        self, correlation_id: str, *, job_index: Sequence[int] = (), grace_seconds: float | None = None
    ) -> Batch:
        """Ends a batch, or some of its jobs; returns once they are final. The same when repeated or already over.

        `grace_seconds` lie between SIGTERM and SIGKILL; None is the service's default.
        """
        request = CancelBatchRequest(correlation_id=correlation_id, job_index=job_index, grace=_duration(grace_seconds))
        return await self._connection.call(lambda link, pairs: link.schedule.CancelBatch(request, metadata=pairs))

    async def search(
        self,
        correlation_id: str,
        *,
        job_index: Sequence[int] = (),
        state: Sequence[JobState.ValueType] = (),
        omit_log: bool = False,
        snapshot: bool = False,
    ) -> AsyncGenerator[SearchJobResponse, None]:
        """Each job in index order with its log as text, a long one over several messages; followed to the batch's end,
        unless `snapshot`. A cut is raised where there are logs: `follow` is what mends them.
        """
        request = SearchJobRequest(
            correlation_id=correlation_id, job_index=job_index, state=state, omit_log=omit_log, snapshot=snapshot
        )
        async with aclosing(search(self._connection, request)) as responses:
            async for response in responses:
                yield response

    async def jobs(
        self, correlation_id: str, *, job_index: Sequence[int] = (), state: Sequence[JobState.ValueType] = ()
    ) -> AsyncGenerator[Job, None]:
        """Each job as it is now, in index order, without its log."""
        request = SearchJobRequest(
            correlation_id=correlation_id, job_index=job_index, state=state, omit_log=True, snapshot=True
        )
        async with aclosing(search(self._connection, request)) as responses:
            async for response in responses:
                yield response.job

    async def list_batches(
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
    ) -> AsyncGenerator[Batch, None]:
        """Batches, newest first, page after page as they are asked for. `user` is for administrators; empty is
        everyone's for them, and one's own for others. Only those that were accepted at or after `since` and before
        `until` (both with a time zone), that have this name and all these labels, and whose id begins with `id_prefix`.
        """
        request = ListBatchesRequest(
            page_size=page_size, state=state, user=user, name=name, labels=labels, id_prefix=id_prefix
        )
        for bound, time in ((request.since, since), (request.until, until)):
            if time is not None:
                bound.FromDatetime(time)
        async with aclosing(list_batches(self._connection, request)) as batches:
            async for batch in batches:
                yield batch


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
