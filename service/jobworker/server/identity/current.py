"""Files as they are now: read again when one changes, without a restart. Only reads; `jobpki` writes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from jobpki.errors import PkiError

T = TypeVar("T")
# Which content was read: a file that was replaced or written differs in one of them.
Signature = tuple[tuple[int, int, int, int] | None, ...]


class Current(Generic[T]):
    """What some files say, of which the first is the one that says it, and others what it is judged by.

    `problem` is what is wrong with them now, in one line; the last good ones are in force then.
    """

    def __init__(self, *paths: Path, read: Callable[[], T], what: str, on_problem: Callable[[str], object]) -> None:
        """Reads the files.

        Args:
            paths: the files. That the first one is missing is a problem only after it has been there.
            read: makes the value of them; raises PkiError.
            what: it is, as a problem is to tell.
            on_problem: told `problem`, once per change.

        Raises:
            PkiError: they cannot be read; there are no last good ones yet.
        """
        self._paths = paths
        self._read = read
        self._what = what
        self._on_problem = on_problem
        self.problem: str | None = None
        # Taken before the files are read: a change in between is then seen at the next call, not missed.
        self._signature = signature(*paths)
        self._was_there = self._signature[0] is not None
        self._value = read()

    def get(self) -> T:
        """The value. The same object until a file changes; costs a stat(2) of each."""
        found = signature(*self._paths)
        if found != self._signature:
            self._signature = found
            try:
                if self._was_there and found[0] is None:
                    raise PkiError("is missing", path=self._paths[0])
                self._value = self._read()
            except PkiError as error:
                self.problem = f"{error}; {self._what} read before stay in force"
                self._on_problem(self.problem)
            else:
                self.problem = None
                self._was_there = found[0] is not None
        return self._value


def signature(*paths: Path) -> Signature:
    """What changes when one of the files does, wherever symbolic links on its path lead; of each None: it is not
    there."""
    return tuple(map(_look, paths))


def _look(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
