"""What one user may have under way at a time, over all connections: calls, streams, batches and requests on their way.

More calls or streams than that are refused; uploads and requests wait for their turn, behind those of the same user
alone. Does not know gRPC.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobworker.server.errors import ExhaustedError

if TYPE_CHECKING:
    from jobworker.server.rpc.call import Call
    from jobworker.server.rpc.memory import MemoryTrim

_RETRY_SECONDS = 1.0
# Each may hold a message that is as large as one may be and of which the last byte does not come.
_REQUESTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """Of one user: `calls` of all kinds, `streams` that last as long as the client likes, `uploads`, of which each
    message has to come within `idle_seconds`."""

    calls: int = 1000
    streams: int = 500
    uploads: int = 100
    idle_seconds: float = 60.0


class _Share:
    """Of one user."""

    __slots__ = ("calls", "requests", "streams", "uploads")

    def __init__(self, limits: UserLimits) -> None:
        self.calls = 0
        self.streams = 0
        self.uploads = asyncio.Semaphore(limits.uploads)
        self.requests = asyncio.Semaphore(_REQUESTS)


class Shares:
    """Everyone's."""

    def __init__(self, limits: UserLimits | None = None, *, memory: MemoryTrim | None = None) -> None:
        self._limits = limits or UserLimits()
        self._memory = memory
        self._users: dict[str, _Share] = {}

    def configure(self, limits: UserLimits) -> None:
        """Takes other limits, for calls that begin from now on; of uploads, once the user has no call under way."""
        self._limits = limits

    def enter(self, user: str, call: Call) -> None:
        """A call begins; `leave` goes with it.

        Raises:
            ExhaustedError: the user has too many.
        """
        share = self._users.get(user)
        if share is None:
            share = self._users[user] = _Share(self._limits)
        if share.calls >= self._limits.calls:
            raise self._exhausted(user, f"{self._limits.calls} calls")
        if call.long:
            if share.streams >= self._limits.streams:
                raise self._exhausted(user, f"{self._limits.streams} streams and waits")
            share.streams += 1
        share.calls += 1

    def leave(self, user: str, call: Call) -> None:
        """It is over: all of its answer is on its way."""
        share = self._users[user]
        share.calls -= 1
        share.streams -= call.long
        if call.long and self._memory is not None:
            self._memory.ended()
        if not share.calls:
            del self._users[user]

    @property
    def idle_seconds(self) -> float:
        """How long a request may take, or a message of an upload."""
        return self._limits.idle_seconds

    def uploads(self, call: Call) -> asyncio.Semaphore:
        """To be held while a stream of requests comes in, by a call that has entered."""
        return self._of(call).uploads

    def requests(self, call: Call) -> asyncio.Semaphore:
        """To be held while a request comes in, by a call that has entered."""
        return self._of(call).requests

    def _of(self, call: Call) -> _Share:
        assert call.principal is not None  # noqa: S101  (it has entered)
        return self._users[call.principal.user]

    def _exhausted(self, user: str, what: str) -> ExhaustedError:
        return ExhaustedError(
            f"user {user} has {what} under way", subject=f"user:{user}", retry_after_seconds=_RETRY_SECONDS
        )
