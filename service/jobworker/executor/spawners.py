"""Threads that start processes at the same time. vfork(2) holds its caller until the child has executed its program, so
that one thread alone starts a few thousand processes a second, however many processors there are.

Only the call itself is theirs: what comes before and after it is the control thread's, which takes its part in each
bunch, and waits for all of it. They know no jobs.
"""

import os
import queue
import threading
from collections import deque
from typing import Callable, Deque, List, Protocol, Sequence

from .threads import or_die

_MOST = 4


class Attempt(Protocol):
    """To start a process; what comes of it is kept there."""

    def make(self) -> None:
        """Raises nothing."""


def count_wanted() -> int:
    """How many, beside the control thread: up to a few, as there are processors that this process may use."""
    return min(_MOST, len(os.sched_getaffinity(0))) - 1


class Spawners:
    """Made by the thread that `run`s: they inherit what it is restricted to, and their children are like its own."""

    def __init__(self, count: int) -> None:
        self.thread_ids: List[int] = []
        self._todo: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
        self._done: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=or_die, args=(self._work,), name=f"spawner {number}", daemon=True).start()
            self._done.get()

    def each(self, act: Callable[[], None]) -> None:
        """Has every one of them do this, once."""
        barrier = threading.Barrier(len(self.thread_ids) + 1)

        def once() -> None:
            act()
            barrier.wait()

        for _ in self.thread_ids:
            self._todo.put(once)
        barrier.wait()

    def run(self, attempts: Sequence[Attempt]) -> None:
        """Makes them all, the first ones first."""
        left = deque(attempts)
        # Less those that have not come yet to what they were asked for before.
        for _ in range(min(len(attempts) - 1, len(self.thread_ids)) - self._todo.qsize()):
            self._todo.put(lambda: self._help(left))
        others = len(attempts)
        while left:
            try:
                attempt = left.popleft()
            except IndexError:
                break
            others -= 1
            attempt.make()
        # Whoever comes too late finds nothing to do, and is not waited for.
        for _ in range(others):
            self._done.get()

    def _help(self, left: Deque[Attempt]) -> None:
        while True:
            try:
                attempt = left.popleft()
            except IndexError:
                return
            attempt.make()
            self._done.put(None)

    def _work(self) -> None:
        self.thread_ids.append(threading.get_native_id())
        self._done.put(None)
        while True:
            self._todo.get()()
