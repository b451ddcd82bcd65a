"""A file as it is now: read again when it changes, without a restart. Only reads; `jobpki` writes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from jobpki.errors import PkiError

T = TypeVar("T")
# Which content was read: a file that was replaced or written differs in one of them.
_Signature = tuple[int, int, int, int]


class Current(Generic[T]):
    """What one file says."""

    def __init__(
        self, path: Path, read: Callable[[Path], T], *, what: str, on_problem: Callable[[str], object]
    ) -> None:
        """Reads the file.

        Args:
            path: the file.
            read: makes the value of it; raises PkiError.
            what: it is, as a problem is to tell.
            on_problem: told in one line, once per change, that the file is damaged and the last good one in force.

        Raises:
            PkiError: the file cannot be read; there is no last good one yet.
        """
        self._path = path
        self._read = read
        self._what = what
        self._on_problem = on_problem
        # Taken before the file is read: a change in between is then seen at the next call, not missed.
        self._signature = self._look()
        self._value = read(path)

    def get(self) -> T:
        """The value. The same object until the file changes; costs a stat(2)."""
        signature = self._look()
        if signature != self._signature:
            self._signature = signature
            try:
                if signature is None:  # also where its first reading took that for nothing to read
                    raise PkiError("is missing", path=self._path)
                self._value = self._read(self._path)
            except PkiError as error:
                self._on_problem(f"{error}; {self._what} read before stay in force")
        return self._value

    def _look(self) -> _Signature | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
