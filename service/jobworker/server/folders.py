"""The service's folders, held open from its start. Later opens go through the descriptors, by /proc/self/fd: whoever
may rename what lies above a folder, and puts a link or another folder in its place, changes nothing. What people read
names them as the configuration does (`shown`). Knows no contents.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobpki.access import check_folder
from jobpki.errors import PkiError
from jobpki.publish import make_folders

# Of the server; the executor gets none of them.
SERVER_FOLDERS = ("data", "logs", "run", "pki")

_PROC = "/proc/self/fd"  # proc(5): the same folder, wherever it lies by now
_MODE = 0o700
_PKI = "pki"


class FolderError(Exception):
    """A folder cannot be used; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class _Held:
    fd: int
    name: Path  # as it was configured


class Folders:
    """By their keys in the section `paths`. Owns the descriptors until `close`."""

    def __init__(self, inherited: Mapping[str, int] | None = None) -> None:
        """`inherited`: descriptors of some, from whoever started this process and holds the folders; they are taken
        over, and their names go by unread."""
        self._inherited = dict(inherited or {})
        self._held: dict[str, _Held] = {}

    def hold(self, key: str, name: Path) -> None:
        """Opens a folder, made if there is none; but not the PKI's, which is jobpki's to make.

        Raises:
            FolderError: it cannot be opened; or it is the server's, and others may put files into it, or another folder
                in its place.
        """
        fd = self._inherited.pop(key, None)
        if fd is None:
            try:
                fd = _open(name, make=key != _PKI, check=key in SERVER_FOLDERS)
            except OSError as e:
                remedy = f" - run: jobpki init --dir {shlex.quote(str(name))}"
                missing = remedy if key == _PKI and e.errno == errno.ENOENT else ""
                raise FolderError(f"{name}: paths.{key} cannot be used: {e.strerror}{missing}") from e
        else:
            os.set_inheritable(fd, False)
        self._held[key] = _Held(fd, name)

    def hold_server(self, paths: Mapping[str, Path]) -> Path:
        """Holds those of the server, by their keys in `paths`; returns what the data folder is opened by.

        Raises:
            FolderError: as above.
        """
        for key in SERVER_FOLDERS:
            self.hold(key, paths[key])
        return self.path("data")

    def path(self, key: str) -> Path:
        """Of a folder that is held: what it is opened by in this process."""
        return Path(f"{_PROC}/{self._held[key].fd}")

    def beneath(self, path: Path) -> Path:
        """A configured path, which leads through the descriptor if it lies in a folder that is held."""
        found = Path(os.path.abspath(path))
        for key, held in self._held.items():
            name = os.path.abspath(held.name)
            if found.is_relative_to(name):
                return self.path(key) / found.relative_to(name)
        return path

    def place(self, key: str) -> str:
        """The name that a folder has now, for a process that cannot have the descriptor."""
        held = self._held[key]
        if os.fstat(held.fd).st_nlink == 0:  # it was removed: another one may be made
            return os.path.realpath(held.name)
        return os.readlink(f"{_PROC}/{held.fd}")

    def descriptors(self, *keys: str) -> dict[str, int]:
        """To hand down; they stay ours."""
        return {key: self._held[key].fd for key in keys}

    def shown(self, text: str) -> str:
        """A text for people, in which folders that are held have the names that were configured."""
        if _PROC not in text:
            return text
        names = {str(held.fd): str(held.name) for held in self._held.values()}
        return re.sub(rf"{_PROC}/(\d+)(?!\w)", lambda found: names.get(found[1], found[0]), text)

    def close(self) -> None:
        """Gives the descriptors back."""
        for fd in (*(held.fd for held in self._held.values()), *self._inherited.values()):
            os.close(fd)
        self._held.clear()
        self._inherited.clear()


def _open(name: Path, *, make: bool, check: bool) -> int:
    if make:
        make_folders(name, mode=_MODE)
    # Links on the way are the operator's, as they are now. One that comes after this is not followed.
    real = os.path.realpath(name)
    fd = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if check:
            check_folder(Path(f"{_PROC}/{fd}"))
    except PkiError as e:
        os.close(fd)
        raise FolderError(str(e).replace(f"{_PROC}/{fd}", str(name))) from e
    except OSError:
        os.close(fd)
        raise
    return fd
