"""The users file as it is now: read again when it changes, without a restart. Only reads; `jobpki` writes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from jobpki.errors import PkiError
from jobpki.users import User, read_users

# Which content was read: a file that was replaced or written differs in one of them.
_Signature = tuple[int, int, int, int]


class Users:
    """The users of one file."""

    def __init__(self, path: Path, *, on_problem: Callable[[str], object]) -> None:
        """Reads the file.

        Args:
            path: the users file.
            on_problem: told in one line, once per change, that the file is damaged and the last good one in force.

        Raises:
            PkiError: the file cannot be read; there is no last good one yet.
        """
        self._path = path
        self._on_problem = on_problem
        # Taken before the file is read: a change in between is then seen at the next call, not missed.
        self._signature = self._look()
        self._users = read_users(path)

    def get(self, name: str) -> User | None:
        """The user's entry; None when there is none. Costs a stat(2) while the file is unchanged."""
        signature = self._look()
        if signature != self._signature:
            self._signature = signature
            self._read_again()
        return self._users.get(name)

    def _read_again(self) -> None:
        try:
            self._users = read_users(self._path)
        except PkiError as error:
            self._on_problem(f"{error}; the users read before stay in force")

    def _look(self) -> _Signature | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
