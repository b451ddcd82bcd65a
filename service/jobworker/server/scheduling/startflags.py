"""A file in memory (tmpfs) for each executor, with a slot for each order that it was sent: the order's id behind a byte
that the executor sets just before it starts the order's process. When the executor is gone the file tells which orders
never started, also to a server that knows nothing else of it, because the one before died as well.

An executor holds the file by a descriptor with a shared lock (flock(2)), which lasts until the last of its threads is
gone: what is not set when the lock can be taken away never will be.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections import defaultdict
from collections.abc import Iterator

FOLDER = "/dev/shm"  # noqa: S108 - files here are made exclusively, and only this user's are believed
_SLOT = 64  # bytes: the flag, and an id with zeros behind it
_SLOTS = 1 << 16  # orders with one executor; what is not used takes no memory


class StartFlags:
    """Of the executor of an epoch. It is opened again by a server that takes over from another."""

    def __init__(self, path: str, epoch: str) -> None:
        """
        Raises:
            OSError: it cannot be made, or is not this user's alone.
        """
        self.epoch = epoch
        self._path = path
        self._fd = _open(path, os.O_CREAT)
        self._slots: defaultdict[str, list[int]] = defaultdict(list)  # of each order that was sent and has not ended
        content = os.pread(self._fd, _SLOT * _SLOTS, 0)
        for offset, job_id, _ in _used(content):
            self._slots[job_id].append(offset)
        self._next = -(-len(content) // _SLOT) * _SLOT
        taken = {offset for offsets in self._slots.values() for offset in offsets}
        self._free = [offset for offset in range(0, self._next, _SLOT) if offset not in taken]

    def share(self) -> int:
        """A descriptor for the executor.

        Raises:
            OSError: there is none left.
        """
        # A description of its own, which the lock belongs to (flock(2)), and not this process.
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def give(self, job_id: str) -> int | None:
        """Where the flag of an order is, which is not set; None: there is no room for one more."""
        if self._free:
            offset = self._free.pop()
        elif self._next < _SLOT * _SLOTS:
            offset = self._next
            self._next += _SLOT
        else:
            return None
        try:
            os.pwrite(self._fd, (b"\0" + job_id.encode()).ljust(_SLOT, b"\0"), offset)
        except OSError:
            self._free.append(offset)
            return None
        self._slots[job_id].append(offset)
        return offset

    def take_back(self, job_id: str) -> None:
        """That of an order that is over, if it had one."""
        for offset in self._slots.pop(job_id, ()):
            os.pwrite(self._fd, bytes(_SLOT), offset)
            self._free.append(offset)

    def close(self, *, remove: bool = False) -> None:
        """This server looks at it no more; `remove`: nor does any other, unless there are orders in it."""
        if remove and not self._slots:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        os.close(self._fd)


class StartFlagFiles:
    """Those of the executors that have worked for one data folder, one after another."""

    def __init__(self, data: str, folder: str = FOLDER) -> None:
        found = os.stat(data)
        self._prefix = f"jobworker-{found.st_dev:x}-{found.st_ino:x}-"
        self._folder = folder

    def of(self, epoch: str) -> StartFlags:
        """The executor's.

        Raises:
            OSError: it cannot be made.
        """
        return StartFlags(f"{self._folder}/{self._prefix}{epoch}", epoch)

    def take_others(self, epoch: str) -> dict[str, str]:
        """The orders that executors of other epochs have not started, and never will, with the epoch of each. Their
        files are gone then. Of one that is not quite dead nothing is known."""
        found: dict[str, str] = {}
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                other = name.removeprefix(self._prefix)
                if name.startswith(self._prefix) and other != epoch:
                    with contextlib.suppress(OSError):
                        found |= dict.fromkeys(_never_started(f"{self._folder}/{name}"), other)
        return found


def _never_started(path: str) -> set[str]:
    fd = _open(path)
    try:
        os.unlink(path)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        started: set[str] = set()
        not_started: set[str] = set()
        for _, job_id, is_set in _used(os.pread(fd, _SLOT * _SLOTS, 0)):
            (started if is_set else not_started).add(job_id)
        return not_started - started
    finally:
        os.close(fd)


def _used(content: bytes) -> Iterator[tuple[int, str, bool]]:
    """Offset, id and flag of each slot that is in use."""
    for offset in range(0, len(content), _SLOT):
        job_id = content[offset + 1 : offset + _SLOT].rstrip(b"\0")
        if job_id:
            yield offset, job_id.decode(), content[offset] != 0


def _open(path: str, flags: int = 0) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(fd)
        raise PermissionError(f"{path}: is not this user's alone")
    return fd
