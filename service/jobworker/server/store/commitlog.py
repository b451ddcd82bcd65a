"""The service's one commit log: what is appended is durable before anyone is told.

One thread writes and syncs; what comes meanwhile gathers to the next group, so a commit takes as long as one sync, and
how many are waited for does not matter. Knows bytes, not what they mean (frames.py has the format).

A write or a sync that fails ends the segment: nothing is tried again on a descriptor whose sync failed, since the
kernel may have dropped the dirty pages and marked them clean (fsync(2)). The log then refuses everything until it is
given a new segment, made from what its owner knows to be durable elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jobworker.server.slices import one_slice
from jobworker.server.store.disk import Disk
from jobworker.server.store.frames import group_frame, segment_frame
from jobworker.server.threads import started

SEGMENT_BYTES = 4 << 20
_SUFFIX = ".log"


@dataclass(slots=True)
class _Entry:
    frame: bytes
    done: Callable[[OSError | None], object]


@dataclass(slots=True)
class Segment:
    """A segment that is open for writing."""

    number: int
    fd: int
    size: int
    limit: int


class CommitLog:
    """`make` a segment and `use` it, then `append`; `close` at the end. On the event loop, but for its thread."""

    def __init__(
        self,
        *,
        folder: str,
        disk: Disk,
        boot: str,
        full: Callable[[int], object],
        failed: Callable[[OSError], object],
        timed: Callable[[float, bool], object],
        clock: Callable[[], float],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """
        Args:
            folder: holds the segments alone.
            boot: the machine's boot id.
            full: told of the number of each segment that gets no more; on the loop, after what it held was told.
            failed: told why the log takes nothing any more; on the loop, after each entry was told.
            timed: told how many seconds each commit took, and whether it failed. `clock` is monotonic.
        """
        self.folder = folder
        self.problem: OSError | None = OSError(errno.EIO, "the commit log has no segment")  # why it takes nothing
        self.last = 0  # number of the last segment that was made, or was to be
        self._disk = disk
        self._boot = boot
        self._full = full
        self._failed = failed
        self._timed = timed
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._loop = asyncio.get_running_loop()
        self._told: deque[tuple[_Entry, OSError | None]] = deque()
        self._after: deque[Callable[[], object]] = deque()
        # Shared with the thread, under the lock.
        self._lock = threading.Lock()
        self._gathered: list[_Entry] = []
        self._fresh: Segment | None = None
        self._wanted = threading.Event()
        self._closing = False
        self._segment: Segment | None = None  # the thread's
        self._thread = started(self._work, name="commit-log")

    # -- the loop's side

    def make(self, number: int, frames: Sequence[bytes] = ()) -> Segment:
        """A new segment, durable, which begins with these frames. Blocks; any thread.

        Raises:
            OSError: it could not be made, and is not there.
        """
        self.last = number
        path = segment_path(self.folder, number)
        content = b"".join(frames)
        data = segment_frame(number, self._boot) + (group_frame(len(content)) + content if content else b"")
        limit = max(self._segment_bytes, 4 * len(data))
        fd = self._disk.create(path)
        try:
            self._disk.reserve(fd, limit)
            self._disk.write(fd, data, 0)
            self._disk.sync(fd)
            self._disk.sync_folder(self.folder)
        except OSError:
            self._disk.close(fd)
            with contextlib.suppress(OSError):
                self._disk.remove(path)
            raise
        return Segment(number, fd, len(data), limit)

    def use(self, segment: Segment) -> None:
        """From now on, what is appended goes there. At the beginning; and after a failure, once each entry was told."""
        with self._lock:
            self._fresh = segment
        self.problem = None

    def append(self, frame: bytes, done: Callable[[OSError | None], object]) -> None:
        """Has a frame committed; `done` is called in a later turn of the loop, with None once it is durable, else with
        what failed. In the order of the calls."""
        entry = _Entry(frame, done)
        problem = self.problem or (OSError(errno.ESHUTDOWN, "the commit log is closed") if self._closing else None)
        if problem is not None:
            self._loop.call_soon(self._tell_all, [entry], problem)
            return
        with self._lock:
            self._gathered.append(entry)
        self._wanted.set()

    def close(self) -> None:
        """Waits until what was appended is durable, or has failed; it is told in a later turn."""
        self._closing = True
        self._wanted.set()
        self._thread.join()
        if self._segment is not None:
            self._leave(self._segment)
            self._segment = None

    def _committed(self, group: list[_Entry], error: OSError | None, seconds: float, closed: int) -> None:
        self._timed(seconds, error is not None)
        if error is not None and self.problem is None:
            self.problem = error
            self._after.append(partial(self._failed, error))
        if closed:
            self._after.append(partial(self._full, closed))
        self._tell_all(group, error)

    def _tell_all(self, entries: list[_Entry], error: OSError | None) -> None:
        idle = not self._told
        self._told.extend([(entry, error) for entry in entries])
        if idle:
            self._tell()

    def _tell(self) -> None:
        """In slices: what is done with a thousand ends takes a while."""
        is_over = one_slice()
        try:
            while self._told and not is_over():
                entry, error = self._told[0]
                try:
                    entry.done(error)
                finally:
                    self._told.popleft()
            if not self._told:
                while self._after:
                    self._after.popleft()()
        finally:
            if self._told:
                self._loop.call_soon(self._tell)

    # -- the thread

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                group, self._gathered = self._gathered, []
                fresh, self._fresh = self._fresh, None
            if fresh is not None:
                if self._segment is not None:
                    self._leave(self._segment)
                self._segment = fresh
            if group:
                began = self._clock()
                closed, error = self._write(group)
                seconds = self._clock() - began
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._committed, group, error, seconds, closed)
            if self._closing and not self._gathered:
                return

    def _write(self, group: list[_Entry]) -> tuple[int, OSError | None]:
        """Returns the number of the segment that gets no more by that, or 0; and what failed."""
        segment, closed = self._segment, 0
        if segment is None:
            return 0, OSError(errno.EIO, "the commit log failed before")
        frames = b"".join([entry.frame for entry in group])
        data = group_frame(len(frames)) + frames
        try:
            if segment.size + len(data) > segment.limit:
                following = self.make(segment.number + 1)
                self._leave(segment)
                closed = segment.number
                self._segment = segment = following
            self._disk.write_synced(segment.fd, data, segment.size)
        except Exception as error:  # a fault of ours must not end the thread: it is told like a disk's
            self._leave(segment)
            self._segment = None
            return closed, error if isinstance(error, OSError) else OSError(errno.EIO, repr(error))
        segment.size += len(data)
        return closed, None

    def _leave(self, segment: Segment) -> None:
        """No more is written to it: what it had reserved, or what was not written whole, is given back."""
        with contextlib.suppress(OSError):
            self._disk.truncate(segment.fd, segment.size)
        self._disk.close(segment.fd)


def segment_path(folder: str, number: int) -> str:
    """Where a segment lies."""
    return f"{folder}/{number:016d}{_SUFFIX}"


def segments(folder: str) -> list[tuple[int, str]]:
    """The segments that there are, with their numbers, in order."""
    found = []
    for name in os.listdir(folder):
        number = name.removesuffix(_SUFFIX)
        if name.endswith(_SUFFIX) and number.isdigit():
            found.append((int(number), f"{folder}/{name}"))
    return sorted(found)
