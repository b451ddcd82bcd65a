"""Waiting for what happens to a batch, without asking again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jobworker.server.model import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.model import BatchView


async def until_final(batch: BatchView) -> None:
    """Returns once the batch is over."""
    waiter = _Waiter(None)
    await waiter.wait(batch, lambda: batch.is_over)


async def until_started(batch: BatchView, index: int) -> None:
    """Returns once a job is no longer queued."""
    waiter = _Waiter(index)
    await waiter.wait(batch, lambda: batch.job_state(index) is not JobState.QUEUED)


async def until_ended(batch: BatchView, index: int) -> None:
    """Returns once a job is final."""
    waiter = _Waiter(index)
    await waiter.wait(batch, lambda: batch.job_state(index).final)


class _Waiter:
    """A BatchWatcher for one job, or (None) for the batch alone."""

    def __init__(self, index: int | None) -> None:
        self._index = index
        self._event = asyncio.Event()

    def changed(self, index: int) -> None:
        if index == self._index:
            self._event.set()

    def changed_many(self, begin: int, stop: int) -> None:
        if self._index is not None and begin <= self._index < stop:
            self._event.set()

    def finished(self) -> None:
        self._event.set()

    async def wait(self, batch: BatchView, reached: Callable[[], bool]) -> None:
        # Subscribe first, then look: a change in between is seen by at least one of the two.
        batch.subscribe(self)
        try:
            while not reached():
                await self._event.wait()
                self._event.clear()
        finally:
            batch.unsubscribe(self)
