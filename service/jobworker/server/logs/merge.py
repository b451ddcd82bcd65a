"""Many logs as one stream for one follower: a whole batch, jobs that have not started included, or one job.

Two sources take turns. Jobs that were there when following began are gone through lazily in index order, so that a
finished batch of 100,000 jobs has few files open at a time; jobs that run while they are passed, and those that start
later, stay open and are served round robin, a bounded piece a turn. Nothing is read before it is asked for: the
follower's own pace is the back pressure. Does not know gRPC.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from jobworker.server.logs.follow import Follow
from jobworker.server.logs.logquery import log_key, size_now
from jobworker.server.logs.tail import start_of_last_lines
from jobworker.server.model import JobState

if TYPE_CHECKING:
    from jobworker.server.logs.budget import Hold
    from jobworker.server.logs.encoder import Encoder
    from jobworker.server.logs.logfile import LogFiles
    from jobworker.server.logs.logquery import LogQuery
    from jobworker.server.model import BatchView, JobView, LogStream

T = TypeVar("T")

_STEPS_AT_ONCE = 16  # without a piece to send; each may read a job's lines and open a file
_NEW, _LIVE, _PASSING, _DONE = range(4)


class Merge(Generic[T]):
    """`async with Merge(...) as merge: while (piece := await merge.next()) is not None: ...`

    Memory: some bytes for each selected job, one open file for each that runs. With `hold`, nothing is read before that
    has room; whoever sends the piece on gives it back.
    """

    def __init__(
        self, *, batch: BatchView, query: LogQuery, files: LogFiles, encoder: Encoder[T], hold: Hold | None = None
    ) -> None:
        self._batch = batch
        self._query = query
        self._hold = hold
        self._files = files
        self._slices = files.slices
        self._encoder = encoder
        indexes = query.indexes
        # range(n) is the whole batch: a job's place is its index.
        self._is_whole = isinstance(indexes, range)
        self._stages = bytearray(len(indexes))
        self._left = len(indexes)
        self._starts = dict(query.starts)
        self._late = bytearray(len(indexes) if query.tail_bytes or query.tail_lines else 0)
        self._next_place = 0  # of the lazy pass
        self._passing: deque[Follow[T]] = deque()  # the logs of the one job that the pass is at
        self._deferred: deque[int] = deque()  # ended unseen behind the pass, and wait for it
        self._live: dict[int, list[Follow[T]]] = {}
        self._ready: deque[Follow[T]] = deque()
        self._changed: deque[int] = deque()
        self._changed_marks = bytearray(len(indexes))
        self._live_turn = False
        self._waiting: asyncio.Future[None] | None = None
        self._subscribed = False

    async def __aenter__(self) -> Self:
        # Subscribe first, then look: an end in between is seen by at least one of the two.
        if self._query.follow:
            self._batch.subscribe(self)
            self._subscribed = True
        try:
            await self._note_tails()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def next(self) -> T | None:
        """The next piece, as soon as there is one; None when every log's end was sent (or, not following, what there
        was)."""
        steps = 0
        while self._left:
            follow = await self._pick()
            if follow is not None:
                piece = await self._step(follow)
                if piece is not None:
                    return piece
            elif self._left and not self._has_work():
                if self._hold is not None:
                    self._hold.give()
                await self._wait()
            steps += 1
            if not steps % _STEPS_AT_ONCE and self._slices.over:
                await self._slices.pause()
        return None

    def close(self) -> None:
        """Ends following; may be called again."""
        if self._subscribed:
            self._batch.unsubscribe(self)
            self._subscribed = False
        for follows in (*self._live.values(), self._passing):
            for follow in follows:
                self._let_go(follow)

    # What the batch tells, see model.BatchWatcher. Called from the scheduler: notes it and returns.

    def changed(self, index: int) -> None:
        """A job started or ended."""
        place = self._place(index)
        # Places that the lazy pass has still to come to are looked at there.
        if place is None or place >= self._next_place or self._stages[place] == _DONE or self._changed_marks[place]:
            return
        self._changed_marks[place] = 1
        self._changed.append(place)
        self._wake()

    def changed_many(self, begin: int, stop: int) -> None:  # noqa: ARG002
        """Jobs were skipped: the lazy pass comes to them again."""
        place = begin if self._is_whole else bisect_left(self._query.indexes, begin)
        if place < self._next_place:
            self._next_place = place
            self._wake()

    def finished(self) -> None:
        """Every job is final: whatever is not done is looked at once more."""
        self._next_place = 0
        self._wake()

    def _place(self, index: int) -> int | None:
        """Where a job stands among those that were asked for; None: it is not one of them."""
        if self._is_whole:
            return index
        place = bisect_left(self._query.indexes, index)
        return place if place < len(self._query.indexes) and self._query.indexes[place] == index else None

    # One turn.

    def _has_work(self) -> bool:
        return bool(
            self._ready or self._passing or self._changed or self._deferred or self._next_place < len(self._stages)
        )

    async def _pick(self) -> Follow[T] | None:
        if self._changed:
            place = self._changed.popleft()
            self._changed_marks[place] = 0
            await self._look(place)
        elif not self._passing and self._deferred:
            await self._look(self._deferred.popleft())
        elif not self._passing and self._next_place < len(self._stages):
            self._next_place += 1
            await self._look(self._next_place - 1)
        self._live_turn = not self._live_turn
        if self._ready and (self._live_turn or not self._passing):
            follow = self._ready.popleft()
            follow.queued = False
            return None if follow.done else follow
        return self._passing[0] if self._passing else None

    async def _step(self, follow: Follow[T]) -> T | None:
        if self._hold is not None and self._hold.since is None:
            await self._hold.take()
        try:
            piece = follow.step()
        except BlockingIOError:
            piece = await follow.step_cold()
        if follow.done:
            self._finish(follow)
        elif follow.more:
            self._enqueue(follow)
        return piece

    def _enqueue(self, follow: Follow[T]) -> None:
        if not follow.queued and not (self._passing and self._passing[0] is follow):  # it has its turn anyway
            follow.queued = True
            self._ready.append(follow)

    def _finish(self, follow: Follow[T]) -> None:
        self._let_go(follow)
        index = follow.index
        place = self._place(index)
        assert place is not None  # noqa: S101  (it was asked for)
        if self._passing and self._passing[0] is follow:
            self._passing.popleft()
            over = not self._passing or self._passing[0].index != index
        else:
            over = all(other.done for other in self._live[place])
            if over:
                del self._live[place]
        if over:
            self._stages[place] = _DONE
            self._left -= 1

    def _let_go(self, follow: Follow[T]) -> None:
        if follow.file is not None:
            follow.file.unlisten(follow.wake)
            follow.close()

    # Looking at a job: when the pass comes to it, and when it changed.

    async def _look(self, place: int) -> None:
        stage = self._stages[place]
        index = self._query.indexes[place]
        state = self._batch.job_state(index)
        if stage in (_DONE, _PASSING) or (state is JobState.QUEUED and self._query.follow):
            return
        if state is JobState.QUEUED and not self._batch.handed_out(index):
            self._stages[place] = _DONE
            self._left -= 1
            return
        if stage == _NEW and state.final and self._passing:
            self._deferred.append(place)  # else a burst of ended jobs would open all their files at once
            return
        job = self._batch.job(index)
        if stage == _LIVE:
            self._look_again(place, job)
        else:
            await self._look_first(place, job)

    async def _look_first(self, place: int, job: JobView) -> None:
        follows = [
            Follow(files=self._files, encoder=self._encoder, index=job.index, stream=stream)
            for stream in job.spec.output.streams
            if self._query.only in (None, stream)
        ]
        live = self._query.follow and job.end is None
        if live:
            self._stages[place] = _LIVE
            self._live[place] = follows
        else:
            self._stages[place] = _PASSING
            self._passing.extend(follows)
        for follow in follows:
            follow.wake = partial(self._on_write, follow)
            self._open(follow, job)
            follow.offset = await self._start(place, follow, job)
            if live:
                self._enqueue(follow)

    def _look_again(self, place: int, job: JobView) -> None:
        for follow in self._live[place]:
            if not follow.done:
                self._open(follow, job)
                self._enqueue(follow)

    def _open(self, follow: Follow[T], job: JobView) -> None:
        """Opens the file if there is one, and says where the log ends if that is known."""
        total = _total(job, follow.stream)
        if follow.file is None and total != 0:
            follow.file = self._files.open(self._batch, follow.index, follow.stream)
        if job.end is not None:
            follow.finish(job.end, total or 0)
        elif not self._query.follow:
            follow.limit = follow.file.size if follow.file else 0
        elif follow.file is not None:
            # Before the first read: a write after that read then wakes us.
            follow.file.listen(follow.wake)

    # Tails.

    async def _note_tails(self) -> None:
        """Notes what the logs of running jobs have at this moment, and which jobs have no log yet."""
        async for place in self._slices.each(range(len(self._late))):
            index = self._query.indexes[place]
            state = self._batch.job_state(index)
            if state is JobState.QUEUED:
                self._late[place] = 1
            elif state is JobState.RUNNING:
                for stream in self._batch.job(index).spec.output.streams:
                    if (key := log_key(index, stream)) not in self._starts:
                        size = size_now(self._batch, index, stream)
                        self._starts[key] = await self._tail(index, stream, size)

    async def _start(self, place: int, follow: Follow[T], job: JobView) -> int:
        start = self._starts.get(log_key(follow.index, follow.stream))
        if start is not None:
            return start
        if not self._late or self._late[place]:
            return 0
        return await self._tail(follow.index, follow.stream, _total(job, follow.stream) or 0)

    async def _tail(self, index: int, stream: LogStream, size: int) -> int:
        start = max(0, size - self._query.tail_bytes) if self._query.tail_bytes else 0
        file = self._files.open(self._batch, index, stream) if self._query.tail_lines and size else None
        if file is not None:
            try:
                start = max(start, await start_of_last_lines(file, min(size, file.size), self._query.tail_lines))
            finally:
                file.close()
        return start

    # Waiting.

    def _on_write(self, follow: Follow[T]) -> None:
        self._enqueue(follow)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None


def _total(job: JobView, stream: LogStream) -> int | None:
    """Bytes of a final job's log; None of another's."""
    if job.end is None:
        return None
    return dict(zip(job.spec.output.streams, job.end.log_bytes, strict=False)).get(stream, 0)
