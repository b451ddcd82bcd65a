"""Things to do at a time. It knows no clock: who asks says what time it is, in seconds of any one clock."""

import heapq
from typing import Callable, List, Optional, Tuple


class Timer:
    """One thing to do; `cancel` on the Timers forgets it."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Optional[Callable[[], None]] = act


class Timers:
    """A heap of timers."""

    def __init__(self) -> None:
        self._heap: List[Tuple[float, int, Timer]] = []
        self._count = 0
        self._cancelled = 0

    def at(self, when: float, act: Callable[[], None]) -> Timer:
        """Has `act` called by the first `run` at or after `when`."""
        timer = Timer(act)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))
        return timer

    def cancel(self, timer: Optional[Timer]) -> None:
        """Never calls it; also for none, and for one that has been called."""
        if timer is None or timer.act is None:
            return
        timer.act = None
        self._cancelled += 1
        # Jobs with an hour's timeout that end within a millisecond would leave millions of dead entries.
        if self._cancelled > 256 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].act is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next(self) -> Optional[float]:
        """When the first is due; None: none is."""
        while self._heap and self._heap[0][2].act is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Calls what is due."""
        while True:
            when = self.next()
            if when is None or when > now:
                return
            _, _, timer = heapq.heappop(self._heap)
            act, timer.act = timer.act, None
            if act is not None:
                act()
