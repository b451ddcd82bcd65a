"""A job's log as an open file, shared by all who follow it: opened by the first, closed by the last.

Reads on the event loop what is in the page cache and leaves the rest to a few threads. Does not know which part of the
file is wanted, nor by whom.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from jobworker.server.threads import StartedPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobworker.server.logs.watch import Watch
    from jobworker.server.model import BatchView, LogStream
    from jobworker.server.slices import Slices

# Bytes of one read, and so of one message. Measured on a finished 1 GiB file over mutual TLS, server and client on two
# shared cores, MiB/s of a follower: 64 KiB 270, 128 KiB 410, 256 KiB 500, 512 KiB 490 (a bare stream of the same
# messages: 320, 430, 550, 540). Of 450 us a message at 256 KiB, reading and encoding take 47.
PIECE_BYTES = 256 << 10
_COLD_READERS = 4

_Key = tuple[str, int, int]


class LogFile:
    """One open log. Comes from LogFiles.open; whoever opens it closes it."""

    def __init__(self, *, files: LogFiles, key: _Key, descriptor: int, gaps: Sequence[tuple[int, int]]) -> None:
        self._files = files
        self._key = key
        self._descriptor = descriptor
        self._gaps = gaps
        self._users = 1
        self._listeners: set[Callable[[], None]] = set()
        self._watch_number: int | None = None

    @property
    def size(self) -> int:
        """Its length now, in bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, view: memoryview) -> int:
        """Reads into `view` without waiting for the disk; returns how many bytes, 0 at the end.

        Fewer than asked for is not yet the end: the rest may have to come from disk.

        Raises:
            BlockingIOError: the first of them has to come from disk; use `read_cold`.
        """
        try:
            return os.preadv(self._descriptor, [view], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # preadv2(2): this file system knows no RWF_NOWAIT
                raise
            return os.preadv(self._descriptor, [view], offset)

    def hole(self, begin: int, stop: int) -> tuple[int, int] | None:
        """The first part of the log that is gone and begins in [begin, stop), or holds `begin`; it may end beyond.
        None: there is none. The file system has no bytes for it, or it was noted when the service started after a power
        failure. Look after reading: more may be dropped at any time while the job runs."""
        found = self._sparse(begin, stop)
        for at, end in self._gaps:
            if end > begin and at < min(stop, found[0] if found else stop):
                return max(at, begin), end
        return found

    def _sparse(self, begin: int, stop: int) -> tuple[int, int] | None:
        """Logs are written one byte after another, so a hole is what was dropped to keep the end, or what a power
        failure took: the length was on disk, and the bytes were not. Read, they would be NUL. lseek(2), SEEK_HOLE: a
        file system that cannot tell has none.
        """
        try:
            found = os.lseek(self._descriptor, begin, os.SEEK_HOLE)
            if found >= stop:
                return None
            try:
                end = os.lseek(self._descriptor, found, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # it reaches to the end of the file
                    raise
                end = self.size
        except OSError:
            return None
        return found, end

    async def read_cold(self, offset: int, length: int) -> bytes:
        """Reads at most `length` bytes in a thread; empty at the end."""
        self._users += 1  # the thread's: a caller that is cancelled may close, but the thread still reads
        read = asyncio.get_running_loop().run_in_executor(
            self._files.readers, os.pread, self._descriptor, length, offset
        )
        read.add_done_callback(lambda _: self.close())
        return await asyncio.shield(read)

    def listen(self, wake: Callable[[], None]) -> None:
        """Has `wake` called after each write from now on."""
        if not self._listeners:
            self._watch_number = self._files.watch.add(self._descriptor, self._wake)
        self._listeners.add(wake)

    def unlisten(self, wake: Callable[[], None]) -> None:
        """Ends `listen`; nothing when it was never called."""
        self._listeners.discard(wake)
        if not self._listeners and self._watch_number is not None:
            self._files.watch.remove(self._watch_number)
            self._watch_number = None

    def share(self) -> None:
        """One more user, who closes too."""
        self._users += 1

    def close(self) -> None:
        """Gives up one use; the last one closes the file."""
        self._users -= 1
        if not self._users:
            self._files.forget(self._key)
            os.close(self._descriptor)

    def _wake(self) -> None:
        for wake in tuple(self._listeners):
            wake()


class LogFiles:
    """The logs that are open now, and what reading them takes. One for the process."""

    def __init__(self, *, watch: Watch, slices: Slices) -> None:
        self.watch = watch
        self.slices = slices
        self.readers = StartedPool(_COLD_READERS, name="log-reader")
        # One for all followers: it is filled and emptied without an await in between.
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        self._open: dict[_Key, LogFile] = {}
        self.sent_bytes = 0  # to all followers so far

    def open(self, batch: BatchView, index: int, stream: LogStream) -> LogFile | None:
        """The log of one job; None when there is no such file, as for a job that was never started."""
        key = (batch.header.correlation_id, index, int(stream))
        file = self._open.get(key)
        if file is not None:
            file.share()
            return file
        descriptor = _open_where_it_lies(batch, index, stream)
        if descriptor is None:
            return None
        try:
            gaps = batch.log_gaps(index, stream)
        except OSError:
            os.close(descriptor)
            raise
        file = self._open[key] = LogFile(files=self, key=key, descriptor=descriptor, gaps=gaps)
        return file

    def forget(self, key: _Key) -> None:
        """For LogFile.close alone."""
        del self._open[key]

    def __len__(self) -> int:
        """How many files are open."""
        return len(self._open)

    def close(self) -> None:
        """Waits for the reading threads; the followers must have closed their files before."""
        self.readers.shutdown()


def _open_where_it_lies(batch: BatchView, index: int, stream: LogStream) -> int | None:
    path = batch.log_path(index, stream)
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            # The folder of a batch moves once, when it ends: between asking and opening, perhaps.
            path, before = batch.log_path(index, stream), path
            if path == before:
                return None
