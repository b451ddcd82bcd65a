"""How many failed calls the audit log tells: so many a minute, of one caller and in all. What is more is counted, and
told in one line, so that whoever is refused again and again neither fills the disk nor pushes the others' lines
out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

LEFT_OUT = "audit.left_out"
OF_ONE_MOST = 10
OF_ALL_MOST = 100
WINDOW_SECONDS = 60.0
_CALLERS_MOST = 1000  # that are counted
_CALLERS_TOLD = 10
_OTHERS = "(others)"


class FailureShare:
    """On the event loop."""

    def __init__(self, *, tell: Callable[[dict[str, object]], object], window_seconds: float = WINDOW_SECONDS) -> None:
        """`tell` is handed the line about what was left out, at the end of each window in which something was."""
        self._tell = tell
        self._window_seconds = window_seconds
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.TimerHandle | None = None  # of the window; None: none has begun
        self._told: Counter[str] = Counter()
        self._callers: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def take(self, caller: str, reason: str) -> bool:
        """Whether a failed call of this caller is to be told; False: it is counted."""
        if self._end is None:
            self._end = self._loop.call_later(self._window_seconds, self.end)
        if self._told[caller] < OF_ONE_MOST and self._told.total() < OF_ALL_MOST:
            self._told[caller] += 1
            return True
        known = caller in self._callers or len(self._callers) < _CALLERS_MOST
        self._callers[caller if known else _OTHERS] += 1
        self._reasons[reason] += 1
        return False

    def end(self) -> None:
        """Ends the window."""
        if self._end is not None:
            self._end.cancel()
        self._end = None
        self._told.clear()
        if self._callers:
            told = dict(self._callers.most_common(_CALLERS_TOLD))
            if rest := self._callers.total() - sum(told.values()):
                told[_OTHERS] = told.get(_OTHERS, 0) + rest
            line = {"count": self._callers.total(), "callers": told, "reasons": dict(self._reasons)}
            self._callers.clear()
            self._reasons.clear()
            self._tell({"what": LEFT_OUT, **line})
