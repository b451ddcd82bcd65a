"""Long work on the event loop in slices, so that nobody waits for it: who has much to do takes a few milliseconds, then
lets everything else have its turn. All who do so share one slice in each turn of the loop, however many they are; what
cannot be cut up and is Python goes to one thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from jobworker.server.threads import StartedPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

T = TypeVar("T")

SLICE_SECONDS = 0.005


def one_slice(clock: Callable[[], float] = time.monotonic) -> Callable[[], bool]:
    """For a callback that can go on in another turn: tells whether the slice that begins now is used up."""
    ends_at = clock() + SLICE_SECONDS
    return lambda: clock() >= ends_at


def with_rests(items: Iterable[T], *, clock: Callable[[], float] = time.monotonic) -> Iterator[T]:
    """The items, for long work in a thread that has much Python to do for them: after each slice it sleeps as long.

    A thread that wants the interpreter's lock from one that computes waits 5 ms for it (sys.getswitchinterval), and the
    event loop wants it again after each of the dozens of system calls that one answer takes.
    """
    ends_at = clock() + SLICE_SECONDS
    for item in items:
        yield item
        if clock() >= ends_at:
            time.sleep(SLICE_SECONDS)
            ends_at = clock() + SLICE_SECONDS


class Slices:
    """For one event loop, on which all but the work of `in_thread` runs."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic and not the loop's own, which stands still within a turn.

        Raises:
            ThreadsError: its thread could not be started.
        """
        self._clock = clock
        self._ends_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        # One: with more, the loop would wait longer for the interpreter's lock each time it wants it.
        self._thread = StartedPool(1, name="long-work")

    @property
    def over(self) -> bool:
        """The slice of this turn is used up: `pause`, once something was done."""
        return self._clock() >= self._ends_at

    async def pause(self) -> None:
        """Returns in a later turn of the loop, with a new slice."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)
        await turn
        self._ends_at = self._clock() + SLICE_SECONDS

    def _next(self) -> None:
        turn = self._waiting.popleft()
        if not turn.done():  # its task was cancelled
            turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)

    async def each(self, items: Iterable[T]) -> AsyncIterator[T]:
        """The items, with pauses between them where they take long. What they come from may change meanwhile, if it
        can be changed while it is gone through."""
        first = True
        for item in items:
            if first:
                first = False  # something is done in each slice, and a single item waits for nobody
            elif self.over:
                await self.pause()
            yield item

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What the work returns or raises. Who is cancelled meanwhile leaves only when it is done: what it works with
        may be closed then."""
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            done.exception()  # nobody else asks, and asyncio would complain
            raise

    def close(self) -> None:
        """Waits for the thread."""
        self._thread.shutdown()
