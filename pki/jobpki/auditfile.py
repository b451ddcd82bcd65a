"""An audit log on disk: `NAME`, rotated by size to `NAME.1`, `NAME.2`, ... from newer to older. The chain of its lines
goes on over rotated files, restarts and crashes. Knows no events.

What a failed write or sync has left is written anew when the next one comes: after a failed fsync(2) the kernel may
take pages for clean that are not on disk. It may be renamed or removed from outside; the chain goes on in a new file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from jobpki.auditchain import Link, encode, end_of, torn
from jobpki.logmode import close_to_others

NAME = "audit.jsonl"
# Of the end of a file that is looked at when it is opened: more than can be written and not yet synced.
_END_BYTES = 2 << 20
_UNSYNCED_BYTES_MOST = 512 << 10


class Storage(Protocol):
    """What is done to the disk; each raises OSError as its system call does. Paths are whole, and offsets in bytes."""

    def open(self, path: str) -> int: ...

    def write(self, fd: int, data: bytes, at: int) -> None: ...

    def write_synced(self, fd: int, data: bytes, at: int) -> None: ...

    def truncate(self, fd: int, size: int) -> None: ...

    def sync(self, fd: int) -> None: ...

    def sync_folder(self, path: str) -> None: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def close(self, fd: int) -> None: ...


class AuditFile:
    """For one thread, and one process at a time. `max_bytes` of a file, of which `files` older ones are kept."""

    def __init__(
        self, folder: str, *, storage: Storage, max_bytes: int, files: int, time: Callable[[], str], name: str = NAME
    ) -> None:
        """Goes on where the chain ended; what a crash tore at the end is closed by a line that says so.

        Args:
            folder: it lies in.
            time: now, for that line.
            name: of the newest file.

        Raises:
            OSError: it cannot be read or written.
        """
        self.max_bytes = max_bytes
        self.files = files
        self.torn_bytes = 0  # found at the end, at the last opening
        self._folder = folder
        self._path = f"{folder}/{name}"
        self._storage = storage
        self._time = time
        self._fd = -1
        self._inode: tuple[int, int] | None = None  # of the file in which `_size` counts
        self._size = 0
        self._unsynced = bytearray()  # the last bytes of it
        self._link = self._last_link()
        self._open()

    @property
    def synced(self) -> bool:
        """Whether all that was written is on disk."""
        return not self._unsynced

    @property
    def last_number(self) -> int:
        """Of the last line."""
        return self._link.number

    def append(self, events: Sequence[Mapping[str, object]], *, sync: bool) -> None:
        """Writes a line for each event; `sync`: on disk when this returns, as is all that was written before.

        Raises:
            OSError: they are not written, or not on disk. Those of this call are left out, those before stay to be
                written.
        """
        self._ready()
        data, link = self._lines(events)
        if data and self._size and self._size + len(data) > self.max_bytes:
            self._rotate()
            data, link = self._lines(events)  # after what another file may have brought along
        self._write(data, sync=sync or len(self._unsynced) + len(data) > _UNSYNCED_BYTES_MOST)
        self._link = link

    def close(self) -> None:
        """Gives the descriptor back; what is not synced may be lost by a power failure."""
        if self._fd >= 0:
            self._storage.close(self._fd)
            self._fd = -1

    # -- the file that is written

    def _lines(self, events: Sequence[Mapping[str, object]]) -> tuple[bytes, Link]:
        link, lines = self._link, []
        for event in events:
            line, link = encode(event, link)
            lines.append(line)
        return b"".join(lines), link

    def _ready(self) -> None:
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._path)
        if self._fd < 0 or found is None or (found.st_dev, found.st_ino) != self._inode:
            self._open()
        elif found.st_size != self._size:  # somebody cut it off, or wrote into it
            self._size = found.st_size
            self._unsynced.clear()

    def _open(self) -> None:
        storage = self._storage
        if self._fd >= 0 and self._unsynced:  # it was renamed
            with contextlib.suppress(OSError):
                storage.sync(self._fd)
        self.close()
        fd = storage.open(self._path)
        try:
            close_to_others(fd, self._folder)
            found = os.fstat(fd)
            if self._inode == (found.st_dev, found.st_ino):  # ours, after a failure
                begin = self._size - len(self._unsynced)
                storage.truncate(fd, begin)
                storage.write(fd, bytes(self._unsynced), begin)
            else:
                self._unsynced.clear()
                self._size = found.st_size
                storage.sync_folder(self._folder)
        except BaseException:
            storage.close(fd)
            raise
        self._fd, self._inode = fd, (found.st_dev, found.st_ino)
        if self._size and not self._unsynced:
            self._close_torn()

    def _close_torn(self) -> None:
        lines = _last_lines(self._path)
        _, raw = end_of(lines)
        self.torn_bytes = len(raw)
        if raw:
            line, link = encode({"time": self._time(), **torn(raw)}, self._link)
            self._write((b"" if raw.endswith(b"\n") else b"\n") + line, sync=True)
            self._link = link
        elif lines and not lines[-1].endswith(b"\n"):
            self._write(b"\n", sync=True)

    def _write(self, data: bytes, *, sync: bool) -> None:
        storage, size = self._storage, self._size
        try:
            if sync and not self._unsynced:
                storage.write_synced(self._fd, data, size)
                self._size += len(data)
                return
            storage.write(self._fd, data, size)
            if sync:
                storage.sync(self._fd)
        except OSError:
            self.close()
            raise
        self._size += len(data)
        if sync:
            self._unsynced.clear()
        else:
            self._unsynced += data

    # -- the files before

    def _rotate(self) -> None:
        """Each step is on disk before the next: a power failure leaves a number out, and no line lost. Where it fails,
        the file grows on."""
        storage, path = self._storage, self._path
        with contextlib.suppress(OSError):
            if self._unsynced:
                storage.sync(self._fd)
                self._unsynced.clear()
            for number in (*range(self.files - 1, 0, -1), 0):
                with contextlib.suppress(FileNotFoundError):
                    storage.rename(f"{path}.{number}" if number else path, f"{path}.{number + 1}")
                    storage.sync_folder(self._folder)
            for number, old in rotated(path):
                if number > self.files:
                    storage.remove(old)
        self._ready()

    def _last_link(self) -> Link:
        for path in (self._path, *(path for _, path in rotated(self._path))):
            with contextlib.suppress(FileNotFoundError):
                link, _ = end_of(_last_lines(path))
                if link is not None:
                    return link
        return Link()


def rotated(path: str) -> list[tuple[int, str]]:
    """The rotated files of a log, with their numbers, the newest first."""
    folder, name = os.path.split(path)
    numbers = [entry.removeprefix(f"{name}.") for entry in os.listdir(folder) if entry.startswith(f"{name}.")]
    return sorted((int(number), f"{path}.{number}") for number in numbers if number.isascii() and number.isdecimal())


def _last_lines(path: str) -> list[bytes]:
    """Each with its line feed, if it has one."""
    with open(path, "rb") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - _END_BYTES)
        file.seek(begin)
        lines = file.readlines()
    return lines[1:] if begin else lines  # the first may be the rest of one
