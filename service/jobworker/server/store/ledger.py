"""Records what happens to batches: into the commit log first, and when it is durable there, into what callers see and
into the batches' files.

Order of deeds, which the promises rest on: `record` applies to a batch's `recorded` state, from which the next decision
is made; the frame is committed; then the same records are applied to its `visible` state, and whoever recorded them is
told. Where a commit fails, `recorded` goes back to `visible`: what did not become durable never happened. Then nothing
is recorded until a new segment could be made, from a checkpoint of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from jobworker.server.core.records import Record
from jobworker.server.errors import ExhaustedError, UnavailableError, service_trouble
from jobworker.server.model import TransitionError
from jobworker.server.serialthread import SerialThread
from jobworker.server.store import results
from jobworker.server.store.accounts import Accounts
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.commitlog import SEGMENT_BYTES, CommitLog, Segment, segment_path
from jobworker.server.store.disk import Disk
from jobworker.server.store.frames import accept_frame, gone_frame, results_frame, totals_frame
from jobworker.server.store.layout import Layout
from jobworker.server.store.projector import Projector
from jobworker.server.store.recovery import Recovered
from jobworker.server.store.replace import remove
from jobworker.server.telemetry.log import Log

Done = Callable[[OSError | None], object]

_RETRY_SECONDS = 1.0
# So many segments that no checkpoint has made needless yet, and no new batches are taken: the disk is too slow.
_SEGMENTS_MOST = 64


class Ledger:
    """`begin` first, `close` at the end."""

    def __init__(
        self,
        *,
        layout: Layout,
        batches: Batches,
        boot: str,
        log: Log,
        timed: Callable[[float, bool], object],
        clock: Callable[[], float],
        disk: Disk | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """
        Args:
            boot: the machine's boot id.
            timed: told how many seconds each commit took, and whether it failed.
        """
        self.running = 0  # jobs that are recorded as ordered, and not as ended
        self.completed: Callable[[ActiveBatch], object] = lambda _: None  # told of a batch whose jobs are all final
        self.resumed: Callable[[], object] = lambda: None  # told that something can be recorded again
        self.disk = disk or Disk()
        self._layout = layout
        self._batches = batches
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._in_flight = 0
        self._closing = False
        self.accounts = Accounts()
        self.files = Projector(layout=layout, batches=batches, accounts=self.accounts, disk=self.disk, log=log)
        self._checkpoints = SerialThread(name="checkpoint")
        self._oldest = 1  # segment that is there
        self._wanted = 0  # segments up to this one are full
        # Batches that finished, by the last segment that has some of them, while it is there.
        self._recent: defaultdict[int, set[str]] = defaultdict(set)
        self._checkpointing = False
        self._commits = CommitLog(
            folder=layout.commit_root,
            disk=self.disk,
            boot=boot,
            full=self._segment_full,
            failed=self._failed,
            timed=timed,
            clock=clock,
            segment_bytes=segment_bytes,
        )

    # -- from start to end

    def begin(self, found: Recovered) -> None:
        """Takes over what recovery found: makes everything durable, begins a new segment and removes those before.
        Where that fails nothing can be recorded until it does not. Blocks."""
        batches, segments = found.batches, found.segments
        self.accounts.begin(found.stored, batches)
        self.running = sum(len(batch.recorded.running) for batch in batches)
        self._oldest, self._commits.last = min(segments, default=1), max(segments, default=0)
        waiting = [batch for batch in batches if batch.tail or batch.content]
        try:
            if waiting:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.disk.sync_all(self._layout.data)
            self._use(self._commits.make(self._commits.last + 1, self._base(batches)))
            _remove(self.disk, self._layout.commit_root, segments)
        except OSError as error:
            self._commits.problem = error
            self._failed(error)
        for batch in waiting:
            self.files.write(batch)

    async def close(self) -> None:
        """Commits and writes what there is; jobs run on."""
        self._closing = True
        self._commits.close()
        # All of it was told to the loop, which comes to it now.
        while self._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await self.files.close()
        self._checkpoints.close()

    # -- what happens

    @property
    def problem(self) -> OSError | None:
        """Why nothing can be recorded now."""
        return self._commits.problem

    def check(self) -> None:
        """Returns if something can be recorded now.

        Raises:
            ExhaustedError: the disk is full.
            UnavailableError: it fails, or is too slow.
        """
        self._check_problem()
        if self._commits_behind() > _SEGMENTS_MOST:
            raise UnavailableError("the disk is too slow: its checkpoints fall behind", retry_after_seconds=5)

    def _check_problem(self) -> None:
        if self.problem is not None:
            raise unavailable(self.problem)
        if self._closing:
            raise UnavailableError("the service is stopping", retry_after_seconds=_RETRY_SECONDS)

    def accept(self, batch: ActiveBatch, content: bytes, done: Done) -> None:
        """Records a new batch; its `batch.jsonl` has this content, or, where it is empty, is synced already."""
        self._in_flight += 1
        frame = accept_frame(batch.header.correlation_id, batch.job_count, content)
        self._commits.append(frame, partial(self._accepted, batch, done))

    def record(self, batch: ActiveBatch, records: Sequence[Record], done: Done | None = None) -> bool:
        """Records what happened to a batch's jobs; what says nothing new is passed over. `done` is called in a later
        turn; False: nothing was new, and it is not called.

        Raises:
            ExhaustedError, UnavailableError: nothing can be recorded now, and nothing was.
        """
        self._check_problem()
        state = batch.recorded
        running, still_open = len(state.running), state.open_count
        fresh: list[tuple[Record, int]] = []
        lines = bytearray()
        for record in records:
            try:
                if not state.apply(record):
                    continue
            except TransitionError as e:  # a fault of whoever told it: the others are true all the same
                self._log.error("refused to record", correlation_id=batch.header.correlation_id, problem=str(e))
                continue
            fresh.append((record, len(lines)))
            lines += results.encode(record)
        if not fresh:
            return False
        self._count(len(state.running) - running)
        self._batches.changed(batch, state.open_count - still_open)
        whole = bytes(lines)
        offset, batch.recorded_bytes = batch.recorded_bytes, batch.recorded_bytes + len(whole)
        batch.in_flight += 1
        self._in_flight += 1
        frame = results_frame(batch.header.correlation_id, offset, whole)
        self._commits.append(frame, partial(self._recorded, batch, fresh, whole, done))
        return True

    def forget(self, batch: ActiveBatch, done: Done) -> None:
        """A batch that was accepted, and of which nobody was told, never was."""
        self._batches.remove(batch)
        self.accounts.forget(batch)
        self._count(-len(batch.recorded.running))
        self.append(gone_frame(batch.header.correlation_id), done)
        self._discard(batch)

    def append(self, frames: bytes, done: Done) -> None:
        """Commits what the log alone is to know."""

        def told(error: OSError | None) -> None:
            self._in_flight -= 1
            done(error)

        self._in_flight += 1
        self._commits.append(frames, told)

    def append_base(self, done: Done) -> None:
        """Commits what the log is to begin with where its older segments are gone."""
        self.append(b"".join(self._base(self._batches.active.values())), done)

    def holds(self, correlation_id: str) -> bool:
        """The log still has something of a finished batch: a start would make it anew."""
        return any(correlation_id in some for some in self._recent.values())

    async def idle(self) -> None:
        """Returns once no job is with an executor."""
        while self.running:
            self._idle.clear()
            await self._idle.wait()

    def _accepted(self, batch: ActiveBatch, done: Done, error: OSError | None) -> None:
        self._in_flight -= 1
        if error is None:
            self._batches.add(batch)
            self.accounts.note(batch)
            self.files.write(batch)
        else:
            self._discard(batch)
        done(error)

    def _discard(self, batch: ActiveBatch) -> None:
        folder = batch.folder
        self.files.forget(batch)
        self.files.do(lambda: self._layout.discard(folder), lambda _, __: None)

    def _recorded(
        self,
        batch: ActiveBatch,
        records: list[tuple[Record, int]],
        lines: bytes,
        done: Done | None,
        error: OSError | None,
    ) -> None:
        self._in_flight -= 1
        batch.in_flight -= 1
        if error is None:
            batch.apply_durable(records, lines)
            self.accounts.note(batch)
            if batch.complete:
                self._recent[self._commits.last].add(batch.header.correlation_id)
                self._batches.completed(batch)
                self.completed(batch)
            self.files.write(batch)
        else:
            running, still_open = len(batch.recorded.running), batch.recorded.open_count
            batch.forget_undurable()
            self._count(len(batch.recorded.running) - running)
            self._batches.changed(batch, batch.recorded.open_count - still_open)
        if done is not None:
            done(error)

    def _count(self, more: int) -> None:
        self.running += more
        if not self.running:
            self._idle.set()

    # -- segments

    def _commits_behind(self) -> int:
        return self._wanted + 1 - self._oldest if self._wanted else 0

    def _segment_full(self, number: int) -> None:
        self._wanted = number
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Makes durable, elsewhere, what the full segments say, and removes them."""
        if not self._checkpointing and self.problem is None:
            self._checkpointing = True
            self.files.when_written(partial(self._files_written, self._wanted))

    def _files_written(self, upto: int) -> None:
        data = self._layout.data
        self.accounts.note_sync()
        self._checkpoints.do(lambda: self.disk.sync_all(data), lambda _, error: self._files_synced(upto, error))

    def _files_synced(self, upto: int, error: OSError | None) -> None:
        if error is not None:
            self._checkpoint_failed(error)
            return
        self.append_base(lambda error: self._base_committed(upto, error))

    def _base_committed(self, upto: int, error: OSError | None) -> None:
        if error is not None:
            self._checkpointing = False
            return
        numbers = range(self._oldest, upto + 1)
        folder = self._layout.commit_root
        self._checkpoints.do(lambda: _remove(self.disk, folder, numbers), lambda _, error: self._removed(upto, error))

    def _removed(self, upto: int, error: OSError | None) -> None:
        if error is not None:
            self._checkpoint_failed(error)
            return
        self._checkpointing = False
        self._oldest = upto + 1
        self._forget_recent()
        if self._wanted > upto:
            self._checkpoint()
        else:
            self._wanted = 0

    def _forget_recent(self) -> None:
        for number in [number for number in self._recent if number < self._oldest]:
            del self._recent[number]

    def _checkpoint_failed(self, error: OSError) -> None:
        self._log.error("a checkpoint failed; tried again", problem=str(error))
        if self._closing:
            return

        def again() -> None:
            self._checkpointing = False
            self._checkpoint()

        asyncio.get_running_loop().call_later(_RETRY_SECONDS, again)

    def _base(self, batches: Iterable[ActiveBatch]) -> list[bytes]:
        """So much of each batch's results is in the log before these frames, and so much do the finished batches take:
        when the log before is removed, the former is in the files, and of the latter these tell."""
        totals = self.accounts.totals(batches)
        frames = [] if totals is None else [totals_frame(totals)]
        return frames + [results_frame(batch.header.correlation_id, batch.recorded_bytes, b"") for batch in batches]

    # -- after a failure

    def _failed(self, error: OSError) -> None:
        self._log.error("nothing can be recorded: the commit log cannot be written", problem=str(error))
        self._begin_anew_later()

    def _begin_anew_later(self) -> None:
        if not self._closing:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._begin_anew)

    def _begin_anew(self) -> None:
        """A checkpoint of everything, and a new segment that begins with it."""
        if self._in_flight or self._checkpointing:
            self._begin_anew_later()
        else:
            self.files.when_written(self._make_anew)

    def _make_anew(self) -> None:
        frames = self._base(self._batches.active.values())
        number, data = self._commits.last + 1, self._layout.data

        def make() -> Segment:
            self.disk.sync_all(data)
            return self._commits.make(number, frames)

        self._checkpoints.do(make, self._made_anew)

    def _made_anew(self, segment: Segment | None, error: OSError | None) -> None:
        if segment is None:
            self._commits.problem = error
            self._begin_anew_later()
            return
        older = range(self._oldest, segment.number)
        folder = self._layout.commit_root
        self._use(segment)
        self._wanted = 0
        self._checkpoints.do(lambda: _remove(self.disk, folder, older), lambda _, __: None)
        self._log.info("the commit log is written again")
        self.resumed()

    def _use(self, segment: Segment) -> None:
        self._commits.use(segment)
        self._oldest = segment.number
        self._forget_recent()
        if self.accounts.known:  # it begins with the totals
            with contextlib.suppress(OSError):
                remove(self._layout.recount_file)


def unavailable(problem: OSError) -> ExhaustedError | UnavailableError:
    """What a caller is told while nothing can be recorded."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExhaustedError(
            f"the service's disk is full: it needs {SEGMENT_BYTES} bytes", subject="service", retry_after_seconds=30
        )
    return service_trouble(problem) or UnavailableError(
        f"the service's disk fails: {problem.strerror or problem}", retry_after_seconds=_RETRY_SECONDS * 5
    )


def _remove(disk: Disk, folder: str, numbers: Sequence[int]) -> None:
    """Oldest first, so that what is left over after a crash is the newest."""
    for number in numbers:
        path = segment_path(folder, number)
        if os.path.exists(path):
            disk.remove(path)
