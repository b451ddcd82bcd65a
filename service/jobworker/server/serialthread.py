"""A thread that does works one after another. Knows nothing of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from jobworker.server.slices import one_slice
from jobworker.server.threads import started

T = TypeVar("T")

_Done = Callable[[Any, OSError | None], object]


class SerialThread:
    """Outcomes come back to the event loop, all that have gathered at once: a hop for each would cost more than most of
    the works do."""

    def __init__(self, *, name: str) -> None:
        """
        Raises:
            ThreadsError: it could not be started.
        """
        self._loop = asyncio.get_running_loop()
        self._works: SimpleQueue[tuple[Callable[[], Any], _Done] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._outcomes: deque[tuple[_Done, Any, OSError | None]] = deque()
        self._telling = False
        self._thread = started(self._run, name=name)

    def do(self, work: Callable[[], T], done: Callable[[T | None, OSError | None], object]) -> None:
        """Has a work done; `done` is called on the loop with what it returned, or with what it failed with: an
        OSError, as works are to raise nothing else."""
        self._works.put((work, done))

    def close(self) -> None:
        """Waits until all is done. Outcomes are told in later turns of the loop, if there are any."""
        self._works.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._works.get()) is not None:
            work, done = item
            result, failure = None, None
            try:
                result = work()
            except OSError as error:
                failure = error
            except Exception as error:  # a fault of ours must not end the thread, and all others' works with it
                failure = OSError(errno.EIO, f"{type(error).__name__}: {error}")
                failure.__cause__ = error
            with self._lock:
                self._outcomes.append((done, result, failure))
                wake, self._telling = not self._telling, True
            if wake:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        is_over = one_slice()
        try:
            while self._outcomes and not is_over():
                done, result, failure = self._outcomes.popleft()
                done(result, failure)
        finally:
            with self._lock:
                self._telling = bool(self._outcomes)
            if self._telling:
                self._loop.call_soon(self._tell)
