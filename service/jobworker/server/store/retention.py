"""Removes finished batches that have been kept long enough, in a thread of its own. Their folders are named after their
times, so that what is too young is not even looked at; unfinished ones lie elsewhere. How old a batch is, `ages` knows.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from jobworker.server.clocks import Now
from jobworker.server.model import BatchHeader, BatchState
from jobworker.server.slices import with_rests
from jobworker.server.store.ages import Ages
from jobworker.server.store.layout import RESULTS, Layout
from jobworker.server.store.size import folder_bytes
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.observe import Observer
from jobworker.server.threads import started

_LONGEST_PAUSE_SECONDS = 3600.0
_SHORTEST_PAUSE_SECONDS = 1.0
_DAY_SECONDS = 86_400.0


class Retention(Observer):
    """An Observer, from `begin` to `close`; `configure` takes effect at once."""

    def __init__(
        self,
        *,
        layout: Layout,
        finished_seconds: float | None,
        now: Callable[[], Now],
        removing: Callable[[str, Callable[[], bool]], bool],
        removed: Callable[[str, int], object],
        log: Log,
    ) -> None:
        """`finished_seconds` after its end a batch is removed; None: never.

        `removing` is told its id before, in the thread of retention, with what tells whether the service ends; False:
        it must stay for now (Ledger.removing). `removed` is told each folder, and how many bytes it held, on the
        loop."""
        self._layout = layout
        self._finished_seconds = finished_seconds
        self._now = now
        self._removing = removing
        self._removed = removed
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._ages = Ages(**_seconds(now()))
        self._changed = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Sweeps now, and again several times within the time that batches are kept."""
        self._thread = started(self._run, name="retention")

    def configure(self, *, finished_seconds: float | None) -> None:
        """Another time to keep them."""
        if finished_seconds != self._finished_seconds:
            self._finished_seconds = finished_seconds
            self._changed.set()

    def close(self) -> None:
        """Ends a sweep within the file that it is at: what is left of a folder lies in the trash."""
        self._closing = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def batch_finished(
        self,
        header: BatchHeader,  # noqa: ARG002
        job_count: int,  # noqa: ARG002
        state: BatchState,  # noqa: ARG002
        started_at: int | None,  # noqa: ARG002
        ended_at: int | None,  # noqa: ARG002
    ) -> None:
        # Its results were written just now.
        self._ages.note(**_seconds(self._now()))

    # -- the thread

    def _run(self) -> None:
        while not self._closing:
            keep = self._finished_seconds
            if keep is not None:
                self._sweep(keep)
            pause = None if keep is None else min(max(keep / 10, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._changed.wait(pause)
            self._changed.clear()

    def _sweep(self, keep_seconds: float) -> None:
        batches = 0
        try:
            for folder in with_rests(self._expired(keep_seconds)):
                if not self._removing(os.path.basename(folder), lambda: self._closing):
                    continue
                size = folder_bytes(folder)
                grave = self._layout.bury(folder)
                if grave is None:
                    continue
                batches += 1
                self._loop.call_soon_threadsafe(self._removed, folder, size)
                self._empty(grave)
        except OSError as e:
            self._log.error("finished batches were not removed", path=e.filename, problem=e.strerror)
        if batches:
            self._log.info("finished batches removed", batches=batches)

    def _expired(self, keep_seconds: float) -> Iterator[str]:
        """Folders of batches that ended so long ago."""
        now = _seconds(self._now())
        self._ages.note(**now)
        self._ages.begin()
        steady = now["steady"]
        latest = steady + self._ages.furthest
        for folder, written in candidates(self._layout, before=latest - keep_seconds, now=latest):
            if self._closing:
                return
            if self._ages.of(folder, written, steady=steady) > keep_seconds:
                yield folder

    def _empty(self, folder: str) -> None:
        """Removes a folder, unless the service ends meanwhile; what cannot be removed stays for the next start."""
        for place, folders, names in with_rests(os.walk(folder, topdown=False)):
            for name in names:
                if self._closing:
                    return
                _quietly(os.unlink, f"{place}/{name}")
            for name in folders:
                _quietly(os.rmdir, f"{place}/{name}")
        _quietly(os.rmdir, folder)


def candidates(layout: Layout, *, before: float, now: float) -> Iterator[tuple[str, float]]:
    """Folders of batches that may have ended before a Unix time, with the time of their last results; emptied folders
    above them are removed on the way.

    A batch's path has the time in its id, which is not after its end by more than the day that a client's clock may
    differ. Days that are still to come have their names from a clock that went wrong, and tell nothing.
    """
    too_young = range(_day(before + _DAY_SECONDS) + 1, _day(now + 2 * _DAY_SECONDS))
    for user in layout.users():
        root = layout.user_root(user)
        for day in sorted(os.listdir(root)):
            if _number_of(day) in too_young:
                continue
            for minute in sorted(os.listdir(f"{root}/{day}")):
                yield from _finished(f"{root}/{day}/{minute}")
                _quietly(os.rmdir, f"{root}/{day}/{minute}")  # which fails while it has others, or a new one
            _quietly(os.rmdir, f"{root}/{day}")


def _finished(folder: str) -> Iterator[tuple[str, float]]:
    for name in os.listdir(folder):
        try:
            yield f"{folder}/{name}", os.stat(f"{folder}/{name}/{RESULTS}").st_mtime
        except FileNotFoundError:
            continue


def _day(seconds: float) -> int:
    return int(seconds // _DAY_SECONDS)


def _number_of(day: str) -> int | None:
    try:
        return _day(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _quietly(remove: Callable[[str], None], path: str) -> None:
    try:
        remove(path)
    except OSError:
        return


def _seconds(now: Now) -> dict[str, float]:
    return {"wall": now.wall_ns / 1e9, "steady": now.boottime_ns / 1e9}
