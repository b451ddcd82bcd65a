"""Writes the folder of a batch: `batch.jsonl`, `results.jsonl`, and the folder's own way from `active/` to where
finished ones lie. A projection of the commit log: what is here can be made from there until a checkpoint has synced it,
so that nothing is synced on the way. Blocks; one thread for all batches.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import BATCH, RESULTS

_OPEN_FILES = 16


@dataclass(frozen=True, slots=True)
class Update:
    """What a batch's folder is to become."""

    folder: str
    content: bytes  # of batch.jsonl, when it is to be written
    lines: bytes  # of results.jsonl
    at: int  # where they begin
    # Where the folder is to lie, and what makes the last line of its results, told where it lies now; None: it stays.
    place: str | None = None
    closing: Callable[[str], bytes] = lambda _: b""


class BatchFiles:
    """For one thread."""

    def __init__(self, disk: Disk, parents: threading.Lock) -> None:
        """`parents` is Layout's."""
        self._disk = disk
        self._parents = parents
        self._open: OrderedDict[str, int] = OrderedDict()  # results.jsonl of batches that change much

    def apply(self, update: Update) -> None:
        """Does it; again is fine.

        Raises:
            OSError: it is done in part.
        """
        disk, folder = self._disk, update.folder
        if update.content:
            self._create(folder, update.content)
        if update.place is not None:
            self._append(folder, update.lines + update.closing(folder), update.at)
            self.forget(folder)
            self.move(folder, update.place)
        elif update.lines:
            disk.write(self._results(folder), update.lines, update.at)

    def _create(self, folder: str, content: bytes) -> None:
        with contextlib.suppress(FileExistsError):  # made with its logs, or of a try before, or of what never was
            self._disk.make_folder(folder)
        self._disk.write_whole(f"{folder}/{BATCH}", content)

    def _append(self, folder: str, lines: bytes, at: int) -> None:
        fd = self._open.get(folder)
        if fd is not None:
            self._disk.write(fd, lines, at)
            return
        fd = self._disk.open(f"{folder}/{RESULTS}")
        try:
            self._disk.write(fd, lines, at)
        finally:
            self._disk.close(fd)

    def _results(self, folder: str) -> int:
        fd = self._open.get(folder)
        if fd is not None:
            self._open.move_to_end(folder)
            return fd
        fd = self._open[folder] = self._disk.open(f"{folder}/{RESULTS}")
        if len(self._open) > _OPEN_FILES:
            self._disk.close(self._open.popitem(last=False)[1])
        return fd

    def move(self, folder: str, place: str) -> None:
        """Renames a folder to a place whose parents may be missing.

        Raises:
            OSError: it could not be moved; it is where it was.
        """
        try:
            self._disk.rename(folder, place)
        except FileNotFoundError:
            if os.path.isdir(place) and not os.path.exists(folder):
                return  # by a try before
            with self._parents:
                self._disk.make_folders(os.path.dirname(place))
                self._disk.rename(folder, place)

    def forget(self, folder: str) -> None:
        """Closes what is open of a folder."""
        fd = self._open.pop(folder, None)
        if fd is not None:
            self._disk.close(fd)

    def close(self) -> None:
        """Closes everything."""
        while self._open:
            self._disk.close(self._open.popitem()[1])
