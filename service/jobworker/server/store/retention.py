"""Removes finished batches that have been kept long enough. Their folders are named after their times, so that what is
too young is not even looked at; unfinished ones lie elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from jobworker.server.slices import Slices
from jobworker.server.store.journal import Syncer
from jobworker.server.store.layout import RESULTS, Layout
from jobworker.server.store.size import folder_bytes
from jobworker.server.telemetry.log import Log

_LONGEST_PAUSE_SECONDS = 3600.0
_SHORTEST_PAUSE_SECONDS = 1.0


class Retention:
    """`run` is a task's work; `configure` takes effect at once."""

    def __init__(
        self,
        *,
        layout: Layout,
        finished_seconds: float | None,
        syncer: Syncer,
        clock_seconds: Callable[[], float],
        removed: Callable[[str, int], object],
        log: Log,
        slices: Slices,
    ) -> None:
        """`finished_seconds` after its end a batch is removed; None: never. `clock_seconds` gives Unix time.

        `removed` is told each folder, and how many bytes it held."""
        self._layout = layout
        self._finished_seconds = finished_seconds
        self._syncer = syncer
        self._clock_seconds = clock_seconds
        self._removed = removed
        self._log = log
        self._slices = slices
        self._changed = asyncio.Event()

    def configure(self, *, finished_seconds: float | None) -> None:
        """Another time to keep them."""
        if finished_seconds != self._finished_seconds:
            self._finished_seconds = finished_seconds
            self._changed.set()

    async def run(self) -> None:
        """Sweeps now and again until it is cancelled; several times within the time that batches are kept."""
        while True:
            keep = self._finished_seconds
            if keep is not None:
                await self._sweep(keep)
            pause = None if keep is None else min(max(keep / 10, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                continue
            self._changed.clear()

    async def _sweep(self, keep_seconds: float) -> None:
        removed: list[tuple[str, int]] = []

        def work() -> None:
            for folder in expired(self._layout, before=self._clock_seconds() - keep_seconds):
                size = folder_bytes(folder)
                self._layout.discard(folder)
                removed.append((folder, size))

        try:
            await self._syncer.run(work)
        except OSError as e:
            self._log.error("finished batches were not removed", path=e.filename, problem=e.strerror)
        async for folder, size in self._slices.each(removed):
            self._removed(folder, size)
        if removed:
            self._log.info("finished batches removed", batches=len(removed))


def expired(layout: Layout, *, before: float) -> Iterator[str]:
    """Folders of batches that ended before a Unix time; emptied folders above them are removed on the way.

    A batch's path has the time in its id, which is not after its end by more than the day that a client's clock may
    differ; the end itself is when its results were last written.
    """
    youngest = datetime.fromtimestamp(before + 86_400, UTC).strftime("%Y-%m-%d")
    for user in layout.users():
        root = layout.user_root(user)
        for day in sorted(os.listdir(root)):
            if day > youngest:
                break
            for minute in sorted(os.listdir(f"{root}/{day}")):
                yield from _ended(f"{root}/{day}/{minute}", before)
                _remove_empty(f"{root}/{day}/{minute}")
            _remove_empty(f"{root}/{day}")


def _ended(folder: str, before: float) -> Iterator[str]:
    for name in os.listdir(folder):
        try:
            if os.stat(f"{folder}/{name}/{RESULTS}").st_mtime < before:
                yield f"{folder}/{name}"
        except FileNotFoundError:
            continue


def _remove_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        return  # it has others, or a new one came just now
