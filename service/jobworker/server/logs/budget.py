"""One budget of bytes for all that is held for clients until they take it: pieces of logs above all.

A stream holds a piece from before it is read until it is on its way. No user has more than half of the budget. When it
is used up streams wait for their turn, those of the user that holds least first, and streams are ended whose client has
taken nothing for a while: of the user that holds most, the longest first.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING

from jobworker.server.errors import ExhaustedError
from jobworker.server.logs.logfile import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.errors import JobworkerError

# A client that reads at all takes a piece in less.
_STALLED_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class Hold:
    """What one stream holds: a piece, or nothing. `give` at the end, once gRPC has nothing of it any more."""

    def __init__(self, *, budget: Budget, user: str, cut: Callable[[JobworkerError], None]) -> None:
        self._budget = budget
        self._cut: Callable[[JobworkerError], None] | None = cut
        self.user = user
        self.since: float | None = None  # None: nothing

    async def take(self) -> None:
        """Waits until there is room for a piece, unless it holds one."""
        if self.since is None:
            await self._budget.take(self)

    def give(self) -> None:
        """Holds nothing any more."""
        if self.since is not None:
            self._budget.give(self)

    def has_stalled(self, now: float) -> bool:
        """Its piece is held for long, and it was not ended for that yet."""
        return self._cut is not None and self.since is not None and now - self.since >= _STALLED_SECONDS

    def end(self, error: JobworkerError) -> None:
        """Ends the stream; its piece is given back when that is done."""
        cut, self._cut = self._cut, None
        if cut is not None:
            cut(error)


class Budget:
    """All of it. On the event loop's thread alone."""

    def __init__(self, *, total_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces = _pieces(total_bytes)
        self._holds: dict[Hold, None] = {}  # the oldest first
        self._users: Counter[str] = Counter()  # how many each has
        self._waiting: dict[str, deque[tuple[Hold, asyncio.Future[None]]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def configure(self, *, total_bytes: int) -> None:
        """Another size; if less, once enough of it was given back."""
        self._pieces = _pieces(total_bytes)
        self._serve()

    async def take(self, hold: Hold) -> None:
        """For Hold.take alone."""
        if hold.user not in self._waiting and self._has_room(hold.user):
            self._put(hold)
            return
        turn = self._loop.create_future()
        self._waiting.setdefault(hold.user, deque()).append((hold, turn))
        self._serve()  # those before it may have gone
        self._look_in(0)
        try:
            await turn
        except asyncio.CancelledError:
            hold.give()  # its turn may have come just now
            raise

    def give(self, hold: Hold) -> None:
        """For Hold.give alone."""
        del self._holds[hold]
        hold.since = None
        self._users[hold.user] -= 1
        if not self._users[hold.user]:
            del self._users[hold.user]
        self._serve()

    def _has_room(self, user: str) -> bool:
        return len(self._holds) < self._pieces and self._users[user] < max(1, self._pieces // 2)

    def _put(self, hold: Hold) -> None:
        hold.since = self._loop.time()
        self._holds[hold] = None
        self._users[hold.user] += 1

    def _serve(self) -> None:
        while self._waiting:
            user = min(self._waiting, key=self._users.__getitem__)
            if not self._has_room(user):
                return
            queue = self._waiting[user]
            hold, turn = queue.popleft()
            if not queue:
                del self._waiting[user]
            if not turn.done():
                self._put(hold)
                turn.set_result(None)

    def _look_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._make_room)

    def _make_room(self) -> None:
        self._timer = None
        wanted = sum(not turn.done() for queue in self._waiting.values() for _, turn in queue)
        if not wanted:
            return
        now = self._loop.time()
        # Whoever holds most gives first; of one user the oldest, as they come.
        stalled = sorted((hold for hold in self._holds if hold.has_stalled(now)), key=lambda h: -self._users[h.user])
        for hold in stalled[:wanted]:
            hold.end(
                ExhaustedError(
                    "too much is held for clients that take nothing, this one among them; go on with cursors",
                    subject="service",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            )
        self._look_in(_STALLED_SECONDS / 4)


def _pieces(total_bytes: int) -> int:
    return max(2, total_bytes // PIECE_BYTES)
