"""One log on its way to one follower: a place in the file, and what comes next from there.

Takes one step at a time and never waits; whose turn it is, and waking up, are the merge's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from jobworker.server.logs.logfile import PIECE_BYTES, LogFile, LogFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.logs.encoder import Encoder
    from jobworker.server.model import JobEnd, LogStream

T = TypeVar("T")

LOST_REASON = "these bytes did not reach the disk before the machine stopped"
DROPPED_REASON = "the job printed more than its log may have, which keeps the end"


class Follow(Generic[T]):
    """A log being followed. `limit` is where data ends: None while the job runs and more may come. `first` is where it
    begins, if that is recorded."""

    def __init__(self, *, files: LogFiles, encoder: Encoder[T], index: int, stream: LogStream) -> None:
        self._files = files
        self._encoder = encoder
        self.index = index
        self.stream = stream
        self.offset = 0
        self.wake: Callable[[], None] = _nobody
        self.file: LogFile | None = None
        self.first = 0
        self.limit: int | None = None
        self.end: JobEnd | None = None
        self.done = False
        self.queued = False  # it has its place in the merge's queue

    def finish(self, end: JobEnd, total_bytes: int) -> None:
        """The job is final: `total_bytes` is all there will be."""
        self.end = end
        self.limit = total_bytes
        self.first = min(total_bytes, end.dropped(self.stream)[0])

    def step(self) -> T | None:
        """The next piece; None when there is none now: `more` then says whether to ask again at once.

        Raises:
            BlockingIOError: the next bytes are not in memory: take `step_cold`.
        """
        if self.offset < self.first:
            return self._gap(self.first, DROPPED_REASON)
        want = self._want()
        if want:
            count = self.file.read(self.offset, self._files.buffer[:want]) if self.file else 0
            if count:
                return self._data(self._files.buffer[:count])
        return self._beyond_data(short=want > 0)

    async def step_cold(self) -> T | None:
        """As `step`, in a thread."""
        want = self._want()
        if want and self.file:
            data = await self.file.read_cold(self.offset, want)
            if data:
                return self._data(memoryview(data))
        return self._beyond_data(short=want > 0)

    @property
    def more(self) -> bool:
        """There is something to step for now: not only after a write, or after the job's end."""
        if self.done:
            return False
        return self.limit is not None or (self.file is not None and self.file.size > self.offset)

    def close(self) -> None:
        """Lets the file go; `listen`ers must be gone before."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _want(self) -> int:
        if self.limit is None:
            return PIECE_BYTES
        return max(0, min(PIECE_BYTES, self.limit - self.offset))

    def _data(self, view: memoryview) -> T:
        offset = self.offset
        hole = self.file.hole(offset, offset + len(view)) if self.file else None
        if hole is not None:
            begin, end = hole
            if begin == offset:
                # While a job runs its machine does, so that no byte was lost.
                reason = DROPPED_REASON if self.end is None else LOST_REASON
                return self._gap(end if self.limit is None else min(end, self.limit), reason)
            view = view[: begin - offset]
        self.offset += len(view)
        self._files.sent_bytes += len(view)
        return self._encoder.data(self.index, self.stream, offset, view)

    def _gap(self, end: int, reason: str) -> T:
        offset, self.offset = self.offset, end
        return self._encoder.gap(self.index, self.stream, offset, end - offset, reason)

    def _beyond_data(self, *, short: bool) -> T | None:
        if self.limit is None:
            return None
        if short and self.end is not None:  # the file is shorter than recorded
            return self._gap(self.limit, LOST_REASON)
        self.done = True
        if self.end is None:
            return None
        return self._encoder.end(self.index, self.stream, self.limit, self.end)


def _nobody() -> None:
    """Wakes nobody: the merge sets its own."""
