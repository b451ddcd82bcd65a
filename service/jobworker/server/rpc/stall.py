"""Cuts a stream whose client has taken nothing for long, or sent nothing: back pressure alone would hold its handler
for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from jobworker.server.errors import ExhaustedError

if TYPE_CHECKING:
    from jobworker.server.errors import JobworkerError
    from jobworker.server.rpc.call import Call


class Stall:
    """`with stall:` around a stream, `begin` and `end` around each write, or read. Costs two attributes a write, not a
    timer. `error`: of the call that is cut; by default, that of a follower."""

    def __init__(self, *, call: Call, stall_seconds: float, error: JobworkerError | None = None) -> None:
        self._call = call
        self._stall_seconds = stall_seconds
        self._error = error or ExhaustedError(
            f"the client has taken nothing for {stall_seconds:g} s; go on with cursors",
            subject="follower",
            retry_after_seconds=0,
        )
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._stall_seconds, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self) -> None:
        """A message is handed over, or waited for."""
        self._since = self._loop.time()

    def end(self) -> None:
        """It was taken, if not by the client then by the window towards it; or it came."""
        self._since = None

    def _look(self) -> None:
        now = self._loop.time()
        stalled_seconds = 0.0 if self._since is None else now - self._since
        if stalled_seconds >= self._stall_seconds:
            self._call.cut(self._error)
            return
        self._timer = self._loop.call_later(self._stall_seconds - stalled_seconds, self._look)
