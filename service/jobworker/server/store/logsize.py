"""How long the log of a job is whose end nobody told, and what of it is gone."""

from __future__ import annotations

import os


def log_size(path: str) -> tuple[int, int]:
    """Its length, and how many bytes of it, the first, are a hole: dropped to keep the end. (0, 0) where there is none.

    One hole and nothing else is no such thing, but what a power failure left. lseek(2), SEEK_DATA: a file system that
    cannot tell has no holes.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    try:
        if status.st_blocks * 512 >= status.st_size:  # st_blocks: inode(7)
            return status.st_size, 0
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return status.st_size, 0  # out of descriptors, or moved just now
    try:
        first = os.lseek(fd, 0, os.SEEK_DATA)
        return os.fstat(fd).st_size, first  # in this order: it may grow
    except OSError:
        return status.st_size, 0
    finally:
        os.close(fd)
