"""Which failures pass by themselves, and how long to wait for that."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import grpc

from jobworker.client.errors import JobworkerError, UnreachableError

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 60.0

# What a broken connection is called by grpc-core when it is INTERNAL or UNKNOWN instead of UNAVAILABLE: the service
# died between two frames of a message, or reset the stream.
_CONNECTION_WORDS = (
    "internal error from core",
    "rst_stream",
    "stream removed",
    "socket closed",
    "connection reset",
    "goaway",
    "broken pipe",
)


def passes_by_itself(error: JobworkerError) -> bool:
    """Whether the same call may well succeed a little later: the service is away, restarts, or cut the connection."""
    match error.code:
        case grpc.StatusCode.UNAVAILABLE:
            return not isinstance(error, UnreachableError)
        # Remote: a call that this side cancels raises asyncio.CancelledError and never comes here.
        case grpc.StatusCode.CANCELLED:
            return True
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN:
            return any(word in error.message.lower() for word in _CONNECTION_WORDS)
        case _:
            return False


def asks_for_another_try(error: JobworkerError) -> bool:
    """Whether the service itself says when to come again: a follower it dropped, one too many."""
    return error.retry_after_seconds is not None and error.code in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    )


@dataclass(frozen=True, slots=True)
class Retry:
    """A failure that is about to be tried again."""

    error: JobworkerError
    pause_seconds: float


class Backoff:
    """The pauses between tries of one call: growing, with jitter, and no longer than its patience in all."""

    def __init__(self, *, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._failing_since: float | None = None
        self._last_pause_ended = 0.0

    def progress(self) -> None:
        """The call got somewhere: its patience and pauses begin anew."""
        self._failing_since = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def next(self, error: JobworkerError) -> Retry:
        """How long to wait after `error`.

        Raises:
            JobworkerError: `error` itself, when the patience is over.
        """
        now = asyncio.get_running_loop().time()
        if self._failing_since is None or now - self._last_pause_ended > self._patience_seconds:
            # The first failure, or one of a call that lived longer than any try to connect could: it was a new life.
            self._failing_since = now
            self._pause_seconds = FIRST_PAUSE_SECONDS
        pause = self._pause_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing
        if error.retry_after_seconds is not None:
            pause += min(error.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
        if now + pause > self._failing_since + self._patience_seconds:
            raise error
        self._last_pause_ended = now + pause
        self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        return Retry(error, pause)
