"""Waits for the ends of jobs."""

from __future__ import annotations

import asyncio

from jobworker.server.store.active import ActiveBatch


class UntilFinal:
    """A BatchWatcher: waits until some jobs are final."""

    def __init__(self, batch: ActiveBatch, wanted: bytes | bytearray | None) -> None:
        """`wanted`: a byte of 1 for each job to wait for; None is all."""
        self._open = batch.visible.unfinished(wanted)
        self._left = self._open.count(1)
        self._batch = batch
        self._done = asyncio.Event()
        if not self._left:
            self._done.set()

    def changed(self, index: int) -> None:
        if self._open[index] and self._batch.job_state(index).final:
            self.changed_many(index, index + 1)

    def changed_many(self, begin: int, stop: int) -> None:
        self._left -= self._open.count(1, begin, stop)
        self._open[begin:stop] = bytes(stop - begin)
        if not self._left:
            self._done.set()

    def finished(self) -> None:
        self._done.set()

    async def wait(self) -> None:
        """Returns once all are final."""
        await self._done.wait()
