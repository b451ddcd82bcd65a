"""Append-only files whose syncs are grouped. Knows bytes, not what they mean.

fdatasync(2) runs in threads; on the event loop, whoever needs a line durable leaves a callback, and all who wait for
one file share one sync. A sync that fails poisons the file: after it, the kernel may have dropped the dirty pages and
marked them clean, so a retry that succeeds proves nothing (see fsync(2), and what PostgreSQL found in 2018).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from jobworker.server.slices import one_slice
from jobworker.server.threads import StartedPool

# Between two syncs of one file: a batch of many quick jobs ends some thirty of them meanwhile, and one sync serves all.
SPACING_SECONDS = 0.02


class PoisonedError(Exception):
    """A sync of this file failed; what was not durable by then never counts as durable."""


class Syncer(Protocol):
    """Runs blocking file work off the loop."""

    def run(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """The work's outcome, on the loop."""
        ...


class ThreadSyncer:
    """A few threads: concurrent fsyncs share the file system's own commit."""

    def __init__(self, *, threads: int = 4) -> None:
        self._pool = StartedPool(threads, name="sync")

    def run(self, work: Callable[[], None]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Waits for what is under way."""
        self._pool.shutdown(wait=True)


class TimedSyncer:
    """A Syncer that tells how long each work took, in seconds, and whether it failed."""

    def __init__(self, syncer: Syncer, *, told: Callable[[float, bool], object], clock: Callable[[], float]) -> None:
        """`told` on the loop. `clock` is monotonic."""
        self._syncer = syncer
        self._told = told
        self._clock = clock

    def run(self, work: Callable[[], None]) -> asyncio.Future[None]:
        began = ended = 0.0

        def timed() -> None:
            nonlocal began, ended
            began = self._clock()
            try:
                work()
            finally:
                ended = self._clock()

        future = self._syncer.run(timed)
        future.add_done_callback(
            lambda done: done.cancelled() or self._told(ended - began, done.exception() is not None)
        )
        return future


class Journal:
    """One append-only file, opened at its first line and closed by its owner."""

    def __init__(self, path: str, *, syncer: Syncer) -> None:
        self.path = path
        self.size = 0
        self.poison: BaseException | None = None
        self._syncer = syncer
        self._fd = -1
        self._durable = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._reached: deque[Callable[[], None]] = deque()
        self._busy = False
        self._last_sync = 0.0
        self._closing = False

    def open(self) -> None:
        """Opens the file for appending, and creates it; again is fine."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self.size = self._durable = os.fstat(self._fd).st_size

    def append(self, data: bytes) -> int:
        """Writes whole lines; returns where they begin. What was written lives through the death of this process.

        Raises:
            OSError: they could not be written whole; what was written of them is cut off again.
            PoisonedError: an earlier sync failed.
        """
        if self.poison is not None:
            raise PoisonedError(self.path) from self.poison
        self.open()
        begin = self.size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, begin)
            raise
        self.size = begin + len(data)
        return begin

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Calls back on the loop once all that was appended so far is on disk; never, when the file is poisoned."""
        self._waiting.append((self.size, callback))
        if not self._busy:
            self._busy = True
            loop = asyncio.get_running_loop()
            wait = self._last_sync + SPACING_SECONDS - loop.time()
            if wait > 0:
                loop.call_later(wait, self._sync)
            else:
                self._sync()

    def _sync(self) -> None:
        target, fd = self.size, self._fd
        future = self._syncer.run(lambda: os.fdatasync(fd))
        future.add_done_callback(lambda done: self._synced(target, done))

    def _synced(self, target: int, done: asyncio.Future[None]) -> None:
        self._busy = False
        if done.cancelled():
            return
        if (failure := done.exception()) is not None:
            self.poison = failure
            self._waiting.clear()
            self._shut()
            return
        self._durable = target
        self._last_sync = asyncio.get_running_loop().time()
        waiting, self._waiting = self._waiting, []
        idle = not self._reached
        for position, callback in waiting:
            if position <= target:
                self._reached.append(callback)
            else:
                self._waiting.append((position, callback))
        if idle:
            self._call_back()
        if self._waiting and not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_later(SPACING_SECONDS, self._sync)
        elif self._closing and not self._busy:
            self._shut()

    def _call_back(self) -> None:
        """In slices: what is done with a thousand ends takes a while."""
        is_over = one_slice()
        try:
            while self._reached and not is_over():
                self._reached.popleft()()
        finally:
            if self._reached:
                asyncio.get_running_loop().call_soon(self._call_back)

    def close(self) -> None:
        """Closes the file, once a sync under way has ended."""
        self._closing = True
        if not self._busy:
            self._shut()

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SharedSync:
    """One sync at a time of one thing, for all who ask meanwhile: who comes during a sync gets the next one."""

    def __init__(self, *, syncer: Syncer, work: Callable[[], None]) -> None:
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
