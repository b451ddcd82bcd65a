"""How late the event loop is: a timer, and when it really ran."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_SECONDS = 0.25  # 15 us a second


class LoopLag:
    """Measures from the start on until `close`."""

    def __init__(self, *, report: Callable[[float], object], clock: Callable[[], float]) -> None:
        """`told` each lag in seconds. `clock` is monotonic and not the loop's own, which stands still within a turn."""
        self._report = report
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wait()

    def _wait(self) -> None:
        self._due = self._clock() + _EVERY_SECONDS
        self._timer = self._loop.call_later(_EVERY_SECONDS, self._ran)

    def _ran(self) -> None:
        self._report(max(0.0, self._clock() - self._due))
        self._wait()

    def close(self) -> None:
        """Ends it."""
        self._timer.cancel()
