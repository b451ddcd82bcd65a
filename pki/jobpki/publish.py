"""Puts files and folders in their place whole or not at all, on disk before they are seen.

Knows nothing of certificates. Readers take no lock: what they find under a final name is complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = ".new-"  # what a crash may leave; `clear_leftovers` removes it
_REMOVED = ".old-"
_ABOVE_MODE = 0o755


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive flock(2) on a file, waiting for whoever has it. The kernel drops it when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, mode: int) -> None:
    """Makes a folder with exactly this mode and syncs its entry; one that is there stays as it is."""
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        return
    path.chmod(mode)  # mkdir(2) takes the umask off
    _sync_folder(path.parent)


def make_folders(path: Path, *, mode: int) -> None:
    """Makes a folder with exactly this mode, and the missing ones above it so that others may pass and not write,
    whatever the umask; one that is there stays as it is."""
    for above in [p for p in reversed(path.parents) if not p.exists()]:
        make_folder(above, mode=_ABOVE_MODE)
    make_folder(path, mode=mode)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def publish_file(path: Path, content: bytes, *, mode: int) -> None:
    """Writes or replaces one file: a temporary one, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    try:
        _write_new(temporary, content, mode)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def publish_folder(path: Path, files: dict[str, tuple[bytes, int]], *, mode: int) -> None:
    """Makes or replaces a folder of files (name -> content, mode); it appears with all of them or not at all.

    A folder that is replaced is renamed away first, so a crash leaves the old one, none, or the new one.
    """
    suffix = f"{path.name}-{secrets.token_hex(4)}"
    temporary = path.with_name(_TEMPORARY + suffix)
    temporary.mkdir(mode=mode)
    try:
        temporary.chmod(mode)
        for name, (content, file_mode) in files.items():
            _write_new(temporary / name, content, file_mode)
        _sync_folder(temporary)
        if path.exists():
            old = path.with_name(_REMOVED + suffix)
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file, on disk too; one that is not there is as well."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    _sync_folder(path.parent)


def clear_leftovers(folder: Path) -> None:
    """Removes what a crash left half made in a folder. Only under the lock: a living writer's look the same."""
    if not folder.is_dir():
        return
    for entry in list(folder.iterdir()):
        if entry.name.startswith((_TEMPORARY, _REMOVED)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    # Closed to others from its first moment: the mode is in open(2), fchmod(2) only undoes the umask.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
