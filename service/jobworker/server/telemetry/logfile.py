"""A log file that is rotated by size: `NAME`, then `NAME.1`, `NAME.2`, ... from newer to older. Whoever tails it
follows the renames; it may also be rotated, truncated or removed from outside at any time. Knows bytes
alone. Who may read it: see jobpki.logmode."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from jobpki.logmode import OWN, close_to_others


class RotatedFile:
    """For one thread. `max_bytes` of a file, of which `files` older ones are kept."""

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        """Raises OSError: it cannot be opened."""
        self.max_bytes = max_bytes
        self.files = files
        self._path = str(path)
        self._fd = -1
        self._torn = False
        self.reopen()
        self._close_old()

    def reopen(self) -> None:
        """Goes on in the file that has the name now, a new one where there is none.

        Raises:
            OSError: it cannot be opened; the one before stays in use.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWN)
        close_to_others(fd, os.path.dirname(self._path))
        size = os.fstat(fd).st_size
        # A line that was cut off when a process or a disk ended must not run into the next one.
        self._torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        self.close()
        self._fd = fd

    def write(self, lines: bytes) -> None:
        """Appends whole lines.

        Raises:
            OSError: not all of them could be written.
        """
        if self._is_elsewhere():
            self.reopen()
        size = os.fstat(self._fd).st_size
        if size and size + len(lines) > self.max_bytes:
            self._rotate()
        view = memoryview(b"\n" + lines if self._torn else lines)
        while view:
            done = os.write(self._fd, view)
            self._torn = view[done - 1] != 0x0A if done else self._torn
            view = view[done:]

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_elsewhere(self) -> bool:
        """Someone has renamed or removed it."""
        try:
            found, own = os.stat(self._path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (found.st_ino, found.st_dev) != (own.st_ino, own.st_dev)

    def _rotate(self) -> None:
        """A crash in between leaves a number out, and no line lost. Where it fails, the file grows on."""
        with contextlib.suppress(OSError):
            for number in range(self.files - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.rename(self._path, f"{self._path}.1")
            self._remove_old()
            self.reopen()

    def _remove_old(self) -> None:
        for number, path in self._old():
            if number > self.files:
                os.unlink(path)

    def _close_old(self) -> None:
        """Those that another version, or somebody, has left open to others."""
        with contextlib.suppress(OSError):
            for _, path in self._old():
                with contextlib.suppress(OSError):
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                    try:
                        close_to_others(fd, os.path.dirname(self._path))
                    finally:
                        os.close(fd)

    def _old(self) -> list[tuple[int, str]]:
        folder, name = os.path.split(self._path)
        numbers = [entry.removeprefix(f"{name}.") for entry in os.listdir(folder) if entry.startswith(f"{name}.")]
        return [(int(number), f"{self._path}.{number}") for number in numbers if number.isdecimal()]
