"""What the durable state does to the disk, call by call: the one place between it and os. Tests put a disk in its place
that forgets what was not synced, or that fails at the n-th call.

Reading needs no such place: what is read was made by these.
"""

from __future__ import annotations

import errno
import os
import shutil

from jobworker.server.store.layout import sync_folder

# What a file system that has no such call says.
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Disk:
    """The real one. Every method raises OSError as its system call does; blocks; any thread."""

    def create(self, path: str) -> int:
        """A new file, open for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: str) -> int:
        """A file, open for writing; it is made if it is not there."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes | bytearray | memoryview, at: int) -> None:
        """Writes all of it at an offset; it is not durable by that."""
        view = memoryview(data)
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done

    def write_whole(self, path: str, content: bytes) -> None:
        """Has a file hold these bytes and no others, by the calls above and below."""
        fd = self.open(path)
        try:
            self.write(fd, content, 0)
            self.truncate(fd, len(content))
        finally:
            self.close(fd)

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        """Writes all of it at an offset, durable when this returns: in one call where the file system can (pwritev2(2),
        RWF_DSYNC), which is half as many waits for the interpreter's lock."""
        view = memoryview(data)
        while view:
            try:
                done = os.pwritev(fd, [view], at, os.RWF_DSYNC)
            except OSError as e:
                if e.errno not in _CANNOT:
                    raise
                self.write(fd, view, at)
                os.fdatasync(fd)
                return
            view, at = view[done:], at + done

    def reserve(self, fd: int, size: int) -> None:
        """Has the file system keep room for so many bytes, which read as NUL; one that cannot does not."""
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as e:
            if e.errno not in _CANNOT:
                raise

    def truncate(self, fd: int, size: int) -> None:
        """Cuts a file off."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Makes a file's bytes and length durable."""
        os.fsync(fd)

    def sync_folder(self, path: str) -> None:
        """Makes a folder's entries durable."""
        sync_folder(path)

    def sync_all(self, folder: str) -> None:
        """Makes everything on the folder's file system durable (syncfs(2)), what others wrote included."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _syncfs(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        """Gives a descriptor back."""
        os.close(fd)

    def make_folder(self, path: str) -> None:
        """Makes a folder; its parent is there."""
        os.mkdir(path, 0o700)

    def make_folders(self, path: str) -> None:
        """Makes a folder and those above it, where they are not there."""
        os.makedirs(path, mode=0o700, exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        """Moves a file or a folder, at once."""
        os.rename(old, new)

    def remove(self, path: str) -> None:
        """Removes a file."""
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        """Removes a folder with all in it, as far as that goes."""
        shutil.rmtree(path, ignore_errors=True)


def _syncfs(fd: int) -> None:
    import ctypes  # noqa: PLC0415  (what os has not)

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
