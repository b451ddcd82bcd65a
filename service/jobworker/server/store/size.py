"""How many bytes finished batches take, without walking the store at each start, or while somebody waits.

The number is kept in a file of its own, written (not synced) as batches finish and are removed: it outlives processes.
After the death of the machine it may be some seconds old, and stays wrong by so much. Where the file is missing, a
thread walks the folders once, at a small share of a CPU. Counted are the lengths of files: a file system rounds up, and
a log with holes takes less.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence

from jobworker.server.model import BatchHeader, BatchState, JobEnd
from jobworker.server.store.layout import BATCH, RESULTS, Layout
from jobworker.server.store.syncer import ThreadSyncer
from jobworker.server.telemetry.observe import Observer
from jobworker.server.threads import started

_REST = 9  # times as long as its work is each pause of the walk
_PIECE_SECONDS = 0.005

_DIGITS = 20

_Place = tuple[str, ...]  # user, day, minute, id: the order of the walk


class StoreSize(Observer):
    """An Observer, from `begin` to `close`. `bytes` is None while the store is walked."""

    def __init__(self, *, layout: Layout, syncer: ThreadSyncer, clock: Callable[[], float]) -> None:
        """The syncer's threads measure batches that a server before this one had accepted. `clock` is monotonic."""
        self._layout = layout
        self._syncer = syncer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._logs: dict[str, int | None] = {}  # of unfinished batches: bytes of ended logs; None: not all are known
        self._own: set[str] = set()  # batches that finish in this server's life: the walk passes them over
        self._own_bytes = 0  # these, less what was removed
        self._walked_bytes: int | None = None  # or what the file said
        self._fd = -1
        self._passed: _Place = ()
        self._closing = threading.Event()
        self._walk: threading.Thread | None = None

    @property
    def bytes(self) -> int | None:
        """As far as is known."""
        return None if self._walked_bytes is None else max(0, self._walked_bytes + self._own_bytes)

    def begin(self) -> None:
        """Reads the file, or starts the walk; before a batch is accepted or recovered."""
        with contextlib.suppress(OSError):  # then it is counted, and not kept
            self._fd = os.open(self._layout.size_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError, ValueError):
            self._walked_bytes = int(os.pread(self._fd, _DIGITS + 1, 0))
            return
        self._walk = started(self._count, name="store-size")

    def close(self) -> None:
        """Ends the walk, which then begins anew at the next start."""
        self._closing.set()
        if self._walk is not None:
            self._walk.join()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- what finishes, and what is removed

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:  # noqa: ARG002
        self._logs[header.correlation_id] = 0
        self._note_own(header)

    def batch_recovered(self, header: BatchHeader, job_count: int) -> None:  # noqa: ARG002
        self._logs[header.correlation_id] = None
        self._note_own(header)

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        known = self._logs.get(header.correlation_id)
        if known is not None:
            self._logs[header.correlation_id] = known + sum([sum(end.log_bytes) for _, end in ends])

    def batch_finished(
        self,
        header: BatchHeader,
        job_count: int,  # noqa: ARG002
        state: BatchState,  # noqa: ARG002
        started_at: int | None,  # noqa: ARG002
        ended_at: int | None,  # noqa: ARG002
    ) -> None:
        logs = self._logs.pop(header.correlation_id, None)
        folder = self._layout.finished(header.user, header.correlation_id)
        if logs is not None:
            self._add(logs + sum(_length(f"{folder}/{name}") for name in (BATCH, RESULTS)))
            return
        found: list[int] = []
        measured = self._syncer.run(lambda: found.append(folder_bytes(folder)))
        measured.add_done_callback(lambda _: self._add(sum(found)))

    def removed(self, folder: str, size: int) -> None:
        """A finished batch is gone, which took so many bytes. On the loop."""
        place = self._place(folder)
        if self._walked_bytes is not None or place[-1] in self._own or place <= self._passed:
            self._add(-size)

    def _add(self, size: int) -> None:
        self._own_bytes += size
        self._keep()

    def _keep(self) -> None:
        stored = self.bytes
        if stored is not None and self._fd >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, b"%0*d\n" % (_DIGITS, stored), 0)

    def _note_own(self, header: BatchHeader) -> None:
        if self._walked_bytes is None:
            self._own.add(header.correlation_id)

    def _place(self, folder: str) -> _Place:
        return tuple(os.path.relpath(folder, self._layout.finished_root).split("/"))

    # -- the walk's thread

    def _count(self) -> None:
        total = 0
        began = self._clock()
        for folder in self._layout.finished_folders():
            self._passed = self._place(folder)
            if self._passed[-1] not in self._own:
                total += folder_bytes(folder)
            worked = self._clock() - began
            if worked >= _PIECE_SECONDS:
                if self._closing.wait(worked * _REST):
                    return
                began = self._clock()
        self._loop.call_soon_threadsafe(self._counted, total)

    def _counted(self, total: int) -> None:
        self._walked_bytes, self._own = total, set()
        self._keep()


def folder_bytes(folder: str) -> int:
    """The lengths of all files below it; what goes away meanwhile counts as nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += _length(f"{place}/{name}")
    return total


def _length(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
