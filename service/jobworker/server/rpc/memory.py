"""Gives memory back to the machine: what a flood of connections or streams took stays with the process otherwise."""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_WORTH = 200  # so many things that ended
_QUIET_SECONDS = 2.0


def _malloc_trim() -> Callable[[int], int] | None:
    """malloc_trim(3); musl has none."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


class MemoryTrim:
    """Counts what `ended`, each of which held some ten kilobytes; a while after many, free memory goes back. It takes
    some milliseconds, in a thread and without Python's lock."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._trim = _malloc_trim()
        self._ended = 0
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, count: int = 1) -> None:
        """So many are over."""
        self._ended += count
        if self._ended >= _WORTH and self._timer is None and self._trim is not None:
            self._timer = self._loop.call_later(_QUIET_SECONDS, self._start)

    def close(self) -> None:
        """Nothing is given back any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._trim = None

    def _start(self) -> None:
        self._timer = None
        self._ended = 0
        if self._trim is not None:
            self._loop.run_in_executor(None, self._trim, 0)
