"""Every path of the data folder, and nowhere else. Knows names, not contents.

```
active/<correlation id>/                                unfinished batches
commit/<number>.log                                     the commit log's segments (frames.py)
batches/<user>/<yyyy-mm-dd>/<hhmm>/<correlation id>/    finished ones; date and time are those in the id, in UTC
trash/                                                  what is being removed: renamed here first, emptied at start
damaged/                                                what could not be read, set aside for people
lock                                                    held by the one server
config.json                                             what UpdateConfig set (config/record.py)
stop.json                                               there while the service is told to stop (scheduling/drain.py)
recount                                                 there while the log may say wrongly what finished batches take:
                                                        the next start counts (store/accounts.py)
```
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from jobworker.server.ids import CorrelationId
from jobworker.server.model import LogStream

BATCH = "batch.jsonl"
RESULTS = "results.jsonl"
_SUFFIX = {LogStream.MERGED: "log", LogStream.STDOUT: "out", LogStream.STDERR: "err"}
# A folder of 200,000 entries takes 110 ms to list; of a thousand, under one.
SHARD_JOBS = 1000
_NAME_BYTES_MAX = 255  # NAME_MAX, limits.h: of a file's name


class DataInUseError(Exception):
    """Another server holds the data folder."""


class Layout:
    """Paths under one data folder, as strings: they are joined and opened on hot paths."""

    def __init__(self, data: Path) -> None:
        self.data = str(data)
        self.active_root = f"{data}/active"
        self.finished_root = f"{data}/batches"
        self.commit_root = f"{data}/commit"
        self.trash_root = f"{data}/trash"
        self.damaged_root = f"{data}/damaged"
        self.stop_file = f"{data}/stop.json"
        self.uids_file = f"{data}/uids.json"
        self.recount_file = f"{data}/recount"
        self.parents = threading.Lock()  # held where finished batches' parents are made for one, or removed as empty

    def prepare(self, *, empties_trash: bool = True) -> int:
        """Makes the folders, takes the lock and empties the trash.

        Returns:
            The lock's descriptor; closing it gives the folder free.

        Raises:
            DataInUseError: another server has it.
        """
        roots = (self.active_root, self.finished_root, self.commit_root, self.trash_root, self.damaged_root)
        for folder in (self.data, *roots):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        lock = os.open(f"{self.data}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DataInUseError(f"{self.data} is in use by another jobworker server") from None
        if empties_trash:
            shutil.rmtree(self.trash_root, ignore_errors=True)
            os.makedirs(self.trash_root, mode=0o700, exist_ok=True)
        return lock

    def active(self, correlation_id: CorrelationId) -> str:
        """The folder of an unfinished batch."""
        return f"{self.active_root}/{correlation_id}"

    def finished(self, user: str, correlation_id: CorrelationId) -> str:
        """The folder of a finished batch."""
        return f"{self.user_root(user)}/{_minute(correlation_id.unix_ms // 60_000)}/{correlation_id}"

    def user_root(self, user: str) -> str:
        """The folder of a user's finished batches.

        Raises:
            ValueError: the name cannot be a folder's; user names that the PKI makes always can.
        """
        if not user or "/" in user or user in {".", ".."} or "\0" in user or len(os.fsencode(user)) > _NAME_BYTES_MAX:
            raise ValueError("not a user's name")
        return f"{self.finished_root}/{user}"

    def users(self) -> list[str]:
        """Who has finished batches."""
        return sorted(os.listdir(self.finished_root))

    def finished_folders(self) -> Iterator[str]:
        """The folders of all finished batches, in the order of users and times; what goes away meanwhile is none."""
        return _below(self.finished_root, 4)  # user, day, minute, id

    def discard(self, folder: str) -> None:
        """Removes a folder: out of sight by one rename, then for good. Absent is fine."""
        grave = self.bury(folder)
        if grave is not None:
            shutil.rmtree(grave, ignore_errors=True)

    def bury(self, folder: str) -> str | None:
        """Has a folder out of sight; whoever does not empty it leaves that to the next start. Returns where it lies
        now, None: it is absent."""
        grave = f"{self.trash_root}/{os.path.basename(folder)}.{os.urandom(4).hex()}"
        try:
            os.rename(folder, grave)
        except FileNotFoundError:
            return None
        return grave

    def bury_finished(self, folder: str) -> str | None:
        """The same of a finished batch, and without the folders above it that are empty then."""
        grave = self.bury(folder)
        with self.parents, contextlib.suppress(OSError):  # it has others, or a new one
            for above in (os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))):
                os.rmdir(above)
        return grave

    def set_aside(self, folder: str) -> str:
        """Moves a folder that could not be read to where people look; returns the place."""
        place = f"{self.damaged_root}/{os.path.basename(folder)}.{os.urandom(4).hex()}"
        os.rename(folder, place)
        return place


@lru_cache(maxsize=16)
def _minute(minutes: int) -> str:
    """The folders of a minute, counted from 1970."""
    return f"{datetime.fromtimestamp(minutes * 60, UTC):%Y-%m-%d/%H%M}"


def _below(root: str, depth: int) -> Iterator[str]:
    if depth == 0:
        yield root
        return
    for name in sorted_names(root):
        yield from _below(f"{root}/{name}", depth - 1)


def sorted_names(folder: str, *, reverse: bool = False) -> list[str]:
    """What is in a folder; nothing where it is gone, or is none."""
    try:
        return sorted(os.listdir(folder), reverse=reverse)
    except (FileNotFoundError, NotADirectoryError):
        return []


def log_name(index: int, stream: LogStream, job_count: int) -> str:
    """A log's path inside its batch's folder; large batches are spread over folders of a thousand jobs."""
    name = f"{index}.{_SUFFIX[stream]}"
    return name if job_count <= SHARD_JOBS else f"{index // SHARD_JOBS:04d}/{name}"


def sync_folder(folder: str) -> None:
    """Makes a folder's entries durable (fsync(2): a file's own fsync does not promise its entry)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
