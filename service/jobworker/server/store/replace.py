"""Replaces a small file whole: after a crash of the process or the machine it is the old one or the new one. Knows
bytes, not what they mean."""

from __future__ import annotations

import contextlib
import os

from jobworker.server.store.layout import sync_folder


def replace(path: str, content: bytes) -> None:
    """Publishes new content by one rename, durable when this returns. Blocks for some milliseconds.

    Raises:
        OSError: it could not be written, and the old content is still there.
    """
    new = f"{path}.new"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", closefd=True) as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    sync_folder(os.path.dirname(path) or ".")


def remove(path: str) -> None:
    """Removes a file, durable when this returns; absent is fine.

    Raises:
        OSError: it may still be there.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        sync_folder(os.path.dirname(path) or ".")
