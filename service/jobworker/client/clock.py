"""The service's clock, as far as a client knows it: what names batches, so that they sort by when they were accepted.

A client's own clock may be hours or days off. Nothing here asks anybody.
"""

from __future__ import annotations

import time

_CLOSE_SECONDS = 2.0  # what was heard was some time on its way: a difference as small is none


class ServerClock:
    """This machine's clock until it was heard what time it is at the service, and if the two agree; else the
    service's, counted on by a clock that never jumps."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # of time.monotonic()

    def learn(self, unix_seconds: float) -> None:
        """It is now so many seconds since 1970 at the service."""
        self._ahead = unix_seconds - time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        own = time.time()
        if self._ahead is None:
            return own
        theirs = time.monotonic() + self._ahead
        return own if abs(own - theirs) <= _CLOSE_SECONDS else theirs
