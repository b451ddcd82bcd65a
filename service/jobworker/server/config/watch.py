"""Says when a file may have changed: watches the folders through which its path leads, so that a file that is replaced,
goes and comes, or is a symlink that is swapped (as Kubernetes does it: `..data`) is noticed. Knows no contents."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from inotify_simple import INotify, flags, parse_events

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

_READ_BYTES = 1 << 16
# One write of an editor, or one swap, is several events.
_SETTLE_SECONDS = 0.05
# The kernel's own limit, MAXSYMLINKS (path_resolution(7)).
_LINKS_MOST = 40
# Not MODIFY: a file that is being written is not a file yet, and its end is CLOSE_WRITE. CREATE for symlinks and links.
_EVENTS = (
    flags.CLOSE_WRITE
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ATTRIB
    | flags.ONLYDIR
)


class FileWatch:
    """Calls `changed` on the event loop, once for what happens together."""

    def __init__(self, path: Path, *, changed: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError: fs.inotify.max_user_instances or max_user_watches is reached."""
        self._path = os.path.abspath(path)
        self._changed = changed
        self._loop = loop
        self._numbers: set[int] = set()  # of the watches
        self._names: set[str] = set()  # that the path leads over
        self._timer: asyncio.TimerHandle | None = None
        # An instance of its own, the second of this process: events of logs come by the thousand.
        self._inotify = INotify(nonblocking=True)
        try:
            self._follow()
        except OSError:
            self._inotify.close()
            raise
        loop.add_reader(self._inotify.fileno(), self._drain)

    def close(self) -> None:
        """Watches no more."""
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()
        if self._timer is not None:
            self._timer.cancel()

    def _drain(self) -> None:
        try:
            events = parse_events(os.read(self._inotify.fileno(), _READ_BYTES))
        except BlockingIOError:
            return
        if any(self._matters(event.mask, event.name) for event in events) and self._timer is None:
            self._timer = self._loop.call_later(_SETTLE_SECONDS, self._settled)

    def _matters(self, mask: int, name: str) -> bool:
        """Not that a watch was removed, nor what happens to a file beside ours; and one that was just created is empty,
        its content comes with CLOSE_WRITE."""
        if mask & flags.IGNORED or (name and name not in self._names):
            return False
        if mask & flags.CREATE and not mask & flags.ISDIR and name == os.path.basename(self._path):
            try:
                found = os.lstat(self._path)
            except OSError:
                return True
            return os.path.islink(self._path) or found.st_nlink > 1
        return True

    def _settled(self) -> None:
        self._timer = None
        with contextlib.suppress(OSError):  # no watches left on this machine: what is watched so far still is
            self._follow()
        self._changed()

    def _follow(self) -> None:
        """Watches the folders that the path leads through now; one that is not there yet is waited for."""
        while True:
            # Set anew each time: behind the same name may be another folder by now. For the same one it is the same.
            folders, self._names = _way(self._path)
            numbers = {number for folder in folders if (number := self._add(folder)) is not None}
            if numbers == self._numbers:
                return  # once more than needed: what changed before a watch was set, nobody told
            for number in self._numbers - numbers:
                with contextlib.suppress(OSError):  # the folder is gone, and its watch with it
                    self._inotify.rm_watch(number)
            self._numbers = numbers

    def _add(self, folder: str) -> int | None:
        try:
            number: int = self._inotify.add_watch(folder, _EVENTS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return None
            raise
        return number


def _way(path: str) -> tuple[list[str], set[str]]:
    """The folders in which the path, and each symlink that it leads over, lie; for one that is not there, the nearest
    above it that is. And every name on that way."""
    folders, names = [], set()
    for _ in range(_LINKS_MOST):
        names.update(path.split("/"))
        folder = os.path.dirname(path)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        folders.append(folder)
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            break
    return folders, names
