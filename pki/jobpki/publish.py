"""Puts files and folders in their place whole or not at all, on disk before they are seen.

Knows nothing of certificates. Readers take no lock: what they find under a final name is complete, and a folder that is
opened is of one generation. What root makes in the folder of another user is that user's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jobpki.layout import CLOSED_MODE

_TEMPORARY = ".new-"  # what a crash may leave; `clear_leftovers` removes it
_REMOVED = ".old-"
_ABOVE_MODE = 0o755
_SUFFIX_BYTES = 4
# <fcntl.h>, <linux/fs.h>
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive flock(2) on a file, waiting for whoever has it. The kernel drops it when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        give(descriptor, path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keeps writers out (see `locked`) where that can be done: who may not open the lock reads without it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, mode: int) -> None:
    """Makes a folder with exactly this mode and syncs its entry; one that is there stays as it is."""
    if _made(path, mode):
        _give_folder(path, path.parent)
        sync_folder(path.parent)


def make_folders(path: Path, *, mode: int) -> None:
    """Makes a folder with exactly this mode, and the missing ones above it so that others may pass and not write,
    whatever the umask; one that is there stays as it is. They are the process's own."""
    for folder, its in [*((p, _ABOVE_MODE) for p in reversed(path.parents) if not p.exists()), (path, mode)]:
        if _made(folder, its):
            sync_folder(folder.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def publish_file(path: Path, content: bytes, *, mode: int) -> None:
    """Writes or replaces one file: a temporary one, fsync, rename, fsync of the folder."""
    temporary = _temporary(path, _TEMPORARY)
    try:
        _write_new(temporary, content, mode, of=path.parent)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def publish_folder(path: Path, files: Mapping[str, tuple[bytes, int]], *, mode: int) -> None:
    """Makes or replaces a folder of files (name -> content, mode): who opens it finds all of the old or all of the new
    ones. A new folder's owner is that of the old one."""
    owner = path if path.exists() else path.parent
    temporary = _temporary(path, _TEMPORARY)
    temporary.mkdir(mode=CLOSED_MODE)
    try:
        for name, (content, file_mode) in files.items():
            _write_new(temporary / name, content, file_mode, of=owner)
        temporary.chmod(mode)
        _give_folder(temporary, owner)
        sync_folder(temporary)
        old = _put(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)
    if old is not None:
        shutil.rmtree(old)


def remove_folder(path: Path) -> None:
    """Removes a folder with all that is in it, on disk too; it goes as a whole. One that is not there is as well."""
    old = _temporary(path, _TEMPORARY)  # what a crash leaves of it is not to come back
    try:
        path.rename(old)
    except FileNotFoundError:
        return
    sync_folder(path.parent)
    shutil.rmtree(old)


def remove_file(path: Path) -> None:
    """Removes a file, on disk too; one that is not there is as well."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def leftovers(folder: Path) -> list[Path]:
    """What a crash left half made in a folder; a living writer's look the same."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.name.startswith((_TEMPORARY, _REMOVED)))


def clear_leftovers(folder: Path) -> None:
    """Removes what a crash left half made; a folder that was away when it came comes back. Only under the lock."""
    for entry in leftovers(folder):
        name = entry.name.removeprefix(_REMOVED)[: -1 - 2 * _SUFFIX_BYTES]
        if entry.name.startswith(_REMOVED) and not (folder / name).exists():
            entry.rename(folder / name)
            sync_folder(folder)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _made(path: Path, mode: int) -> bool:
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        return False
    path.chmod(mode)  # mkdir(2) takes the umask off
    return True


def _put(temporary: Path, path: Path) -> Path | None:
    """Gives a folder its final name; returns where the one that had it is now."""
    if not path.exists():
        temporary.rename(path)
        return None
    if _exchange(temporary, path):
        return temporary
    old = _temporary(path, _REMOVED)
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        old.rename(path)
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step (renameat2(2), Linux 3.15); False where the C library, the kernel or the file
    system cannot do it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _temporary(path: Path, prefix: str) -> Path:
    return path.with_name(f"{prefix}{path.name}-{secrets.token_hex(_SUFFIX_BYTES)}")


def _write_new(path: Path, content: bytes, mode: int, *, of: Path) -> None:
    # Closed to others from its first moment: the mode is in open(2), fchmod(2) only undoes the umask.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        give(descriptor, of)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def give(descriptor: int, folder: Path) -> None:
    """Root's file becomes that of the folder's owner, who could not read it otherwise."""
    if os.geteuid() == 0:
        its, found = os.fstat(descriptor), folder.stat()
        if (its.st_uid, its.st_gid) != (found.st_uid, found.st_gid):
            os.fchown(descriptor, found.st_uid, found.st_gid)


def _give_folder(path: Path, folder: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give(descriptor, folder)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Has a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
