"""Which user id of the machine the jobs of each user run as. An id is one user's for ever: files that a user's jobs
have left anywhere must never be another's.
"""

from __future__ import annotations

import json
import os
import threading

from jobworker.server.store.disk import Disk

_VERSION = 1


class UidsError(Exception):
    """The file cannot be read; one line says which, and what to do."""


class NoUidError(Exception):
    """All user ids are given away; the text says what to do."""


class Uids:
    """Any thread. The executor says from which range (executor/identity.py)."""

    def __init__(self, path: str, disk: Disk | None = None) -> None:
        """`path`: the file, made when the first id is given.

        Raises:
            UidsError: it is there, and cannot be read. To begin with none would give a user's files to another.
        """
        self._path = path
        self._disk = disk or Disk()
        self._lock = threading.Lock()
        self._given = _read(path)

    def of(self, user: str, first: int, last: int) -> int:
        """The user's id from `first` to `last`; a new one is on disk when this returns, which takes milliseconds.

        Raises:
            NoUidError: none is left.
            OSError: the file cannot be written; nothing changed.
        """
        with self._lock:
            found = next((uid for uid in self._given.get(user, ()) if first <= uid <= last), None)
            if found is not None:
                return found
            taken = {uid for uids in self._given.values() for uid in uids}
            free = next((uid for uid in range(first, last + 1) if uid not in taken), None)
            if free is None:
                raise NoUidError(
                    f"no user id is left for {user}: {first}-{last} are given away; see jobs.uids, or --uids of the "
                    "executor"
                )
            given = {**self._given, user: [*self._given.get(user, ()), free]}
            self._publish(json.dumps({"version": _VERSION, "uids": given}, indent=1, sort_keys=True).encode())
            self._given = given
            return free

    def _publish(self, content: bytes) -> None:
        """By one rename, durable when this returns."""
        disk, new = self._disk, f"{self._path}.new"
        fd = disk.open(new)
        try:
            disk.write(fd, content, 0)
            disk.truncate(fd, len(content))
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(new, self._path)
        disk.sync_folder(os.path.dirname(self._path) or ".")


def _read(path: str) -> dict[str, list[int]]:
    """By user: each id it ever had, since the range may have changed."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
        if content["version"] != _VERSION:
            raise UidsError(f"{path}: is of another release, version {content['version']}")
        given: dict[str, list[int]] = {str(user): [int(uid) for uid in uids] for user, uids in content["uids"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UidsError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UidsError(
            f"{path}: cannot be read, and says whose files are whose: bring it back from a backup, or remove all that "
            "jobs have left in folders that they may write, and then this file"
        ) from error
    return given
