"""One client-streaming call whose status is what the service said, also when it said it while we were still writing.

grpcio 1.85 loses it there: a write that fails because the call is over sets INTERNAL, "Internal error from Core"
(aio/_call.py `_write`, `set_internal_error`), before the service's own status arrives, or over it. So the status is
taken down the moment one is set.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jobworker.v1.schedule_pb2 import JobRequest, JobResponse

    Call = grpc.aio.StreamUnaryCall[JobRequest, JobResponse]

_T = TypeVar("_T")

_LOST = "Internal error from Core"
_WAIT_SECONDS = 1.0  # for a status behind a failed write: it comes within a turn or two of the loop, or was set before


class Sending:
    """The requests of one call, and its answer."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._own_status: asyncio.Future[grpc.aio.AioRpcError | None] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note_status)

    async def send(self, request: JobRequest) -> bool:
        """False: the call is over, and `answer` tells why."""
        if self._call.done():
            return False
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the latter: it was over before the write began
            return False
        return True

    async def finish(self) -> None:
        """No more requests."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass

    async def answer(self) -> JobResponse:
        """What the service answered.

        Raises:
            grpc.aio.AioRpcError: it refused, or is gone.
        """
        try:
            return await self._call
        except grpc.aio.AioRpcError as error:
            if error.details() != _LOST:
                raise
            done, _ = await asyncio.wait([self._own_status], timeout=_WAIT_SECONDS)
            raise (self._own_status.result() if done else None) or error from None

    def cancel(self) -> None:
        """Ends the call, if it is not over."""
        self._call.cancel()

    def _note_status(self, _: object) -> None:
        if self._own_status.done():
            return
        details = _now(self._call.details())
        if details != _LOST:
            trailing = _now(self._call.trailing_metadata())
            code = _now(self._call.code())
            self._own_status.set_result(grpc.aio.AioRpcError(code, trailing_metadata=trailing, details=details))


def _now(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that has nothing to wait for: those of a call whose status is set."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        value: _T = result.value
        return value
    coroutine.close()
    raise RuntimeError("the call has no status yet")
