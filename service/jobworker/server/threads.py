"""Threads that are all there from the start. Knows nothing of the work.

Python's own pool starts a thread when it is handed work. A machine that gives no more (RLIMIT_NPROC is shared by all
processes of a user, pids.max by all of a container) would fail that work at its time, or leave it waiting for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvloop

_DEFAULT_THREADS = 2  # for what has no pool of its own: REST's compression, and the end of traces


class ThreadsError(Exception):
    """A thread could not be started; the message says what for, and what the machine's limits are."""


class StartedPool(ThreadPoolExecutor):
    """A ThreadPoolExecutor that starts no thread after it was made."""

    def __init__(self, threads: int, *, name: str) -> None:
        """
        Raises:
            ThreadsError: they could not be started.
        """
        super().__init__(threads, thread_name_prefix=name)
        # Each waits in its own thread until there are as many threads as work: none is idle meanwhile and takes two.
        everyone = threading.Barrier(threads + 1)
        try:
            for _ in range(threads):
                self.submit(everyone.wait)
        except RuntimeError as error:  # "can't start new thread"
            everyone.abort()
            self.shutdown(wait=False, cancel_futures=True)
            raise _cannot_start(name) from error
        everyone.wait()


class Loop(uvloop.Loop):
    """An event loop whose default executor is a StartedPool."""

    def __init__(self) -> None:
        """
        Raises:
            ThreadsError: its threads could not be started.
        """
        super().__init__()
        self._pool = StartedPool(_DEFAULT_THREADS, name="worker")
        self.set_default_executor(self._pool)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Blocks, at the end of the process: asyncio's own waits in a thread that it would have to start."""
        self._pool.shutdown(wait=True)


def started(work: Callable[[], object], *, name: str) -> threading.Thread:
    """A thread of its own that does the work; it keeps no process from its end.

    Raises:
        ThreadsError: it could not be started.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise _cannot_start(name) from error
    return thread


def _cannot_start(name: str) -> ThreadsError:
    return ThreadsError(f"the machine gives no thread for {name}: see RLIMIT_NPROC (ulimit -u) and pids.max")
