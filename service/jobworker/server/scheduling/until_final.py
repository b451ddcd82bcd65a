"""Waits for the ends of jobs."""

from __future__ import annotations

import asyncio

from jobworker.server.store.active import ActiveBatch


class UntilFinal:
    """A BatchWatcher: waits until some jobs are final."""

    def __init__(self, batch: ActiveBatch, indexes: range | frozenset[int]) -> None:
        self._open = {i for i in indexes if not batch.job_state(i).final}
        self._batch = batch
        self._done = asyncio.Event()
        if not self._open:
            self._done.set()

    def changed(self, index: int) -> None:
        if index in self._open and self._batch.job_state(index).final:
            self._open.discard(index)
            if not self._open:
                self._done.set()

    def finished(self) -> None:
        self._done.set()

    async def wait(self) -> None:
        """Returns once all are final."""
        await self._done.wait()
