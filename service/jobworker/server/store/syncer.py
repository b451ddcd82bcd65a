"""Blocking file work off the event loop: syncs that many may wait for at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jobworker.server.threads import StartedPool


class ThreadSyncer:
    """A few threads: concurrent fsyncs share the file system's own commit."""

    def __init__(self, *, threads: int = 4) -> None:
        self._pool = StartedPool(threads, name="sync")

    def run(self, work: Callable[[], None]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Waits for what is under way."""
        self._pool.shutdown(wait=True)


class SharedSync:
    """One sync at a time of one thing, for all who ask meanwhile: who comes during a sync gets the next one."""

    def __init__(self, *, syncer: ThreadSyncer, work: Callable[[], None]) -> None:
        self._syncer = syncer
        self._work = work
        self._running: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def sync(self) -> None:
        """Returns once a sync that began after this call has ended.

        Raises:
            OSError: it failed.
        """
        if self._running is None:
            self._running = self._start()
            await asyncio.shield(self._running)
            return
        if self._next is None:
            self._next = asyncio.ensure_future(self._after(self._running))
        await asyncio.shield(self._next)

    async def _after(self, running: asyncio.Future[None]) -> None:
        await asyncio.wait([running])
        self._next = None
        self._running = self._start()
        await self._running

    def _start(self) -> asyncio.Future[None]:
        future = self._syncer.run(self._work)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[None]) -> None:
        if self._running is future:
            self._running = None
