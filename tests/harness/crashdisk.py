"""A disk that forgets what was not synced.

`RecordingDisk` does everything on the real file system, and notes each call. `images` then makes the folders that could
be found after a power failure at any moment of the run: what had been synced is there, and of everything else any part
may be, in any order (as POSIX allows: fsync(2), rename(2); and what file systems were found to do: Pillai and others,
"All File Systems Are Not Created Equal", OSDI 2014).
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from jobworker.server.store.disk import Disk

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Op:
    """A call that changed something; durable once an op of `synced_by` was done."""

    kind: str  # link, unlink, move, write, cut; sync
    inode: int
    folder: int = 0
    name: str = ""
    to_folder: int = 0
    to_name: str = ""
    at: int = 0
    data: bytes = b""
    synced_by: int | None = None  # number of the op after which it is durable
    partner: int | None = None  # of a move: what has its old name from then on


@dataclass
class _Folder:
    inode: int
    entries: dict[str, int] = field(default_factory=dict)


def _alone(call: Callable[P, T]) -> Callable[P, T]:
    """One call at a time, so that what is noted is what happened."""

    @wraps(call)
    def locked(*args: P.args, **kwargs: P.kwargs) -> T:
        with args[0].lock:  # type: ignore[attr-defined]
            return call(*args, **kwargs)

    return locked


class RecordingDisk(Disk):
    """The real one, and a record of it."""

    def __init__(self, root: Path, *, skip: Callable[[str, str], bool] = lambda _call, _path: False) -> None:
        """`root` is there, and all that happens below it goes through this. `skip`: of a sync, told the call and its
        path, whether it is to be left out."""
        self.lock = threading.RLock()
        self.ops: list[Op] = []
        self._skip = skip
        self._root = str(root)
        self._numbers = itertools.count(1)
        self._folders = {0: _Folder(0)}
        self._fds: dict[int, tuple[int, str]] = {}
        for folder, names, files in os.walk(root):  # what is there at the beginning is durable
            inode = self._inode(folder)
            for name in (*names, *files):
                self._link(inode, name, is_folder=name in names)
        for op in self.ops:
            op.synced_by = 0

    # -- the calls

    @_alone
    def create(self, path: str) -> int:
        fd = super().create(path)
        self._opened(fd, path)
        return fd

    @_alone
    def open(self, path: str) -> int:
        fd = super().open(path)
        self._opened(fd, path)
        return fd

    @_alone
    def write(self, fd: int, data: bytes | bytearray | memoryview, at: int) -> None:
        super().write(fd, data, at)
        self.ops.append(Op("write", self._fds[fd][0], at=at, data=bytes(data)))

    @_alone
    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        inode, path = self._fds[fd]
        super().write(fd, data, at)
        self.ops.append(Op("write", inode, at=at, data=data))
        op = self.ops[-1]
        if not self._skip("write_synced", path):
            self._sync(lambda other: other is op)

    @_alone
    def reserve(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)  # as it looks to a reader
        self.ops.append(Op("cut", self._fds[fd][0], at=size))

    @_alone
    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self.ops.append(Op("cut", self._fds[fd][0], at=size))

    @_alone
    def sync(self, fd: int) -> None:
        inode, path = self._fds[fd]
        if not self._skip("sync", path):
            self._sync(lambda op: op.inode == inode and op.kind in ("write", "cut"))

    @_alone
    def sync_folder(self, path: str) -> None:
        if not self._skip("sync_folder", path):
            inode = self._inode(path)
            self._sync(lambda op: op.kind in ("link", "unlink", "move") and inode in (op.folder, op.to_folder))

    @_alone
    def sync_all(self, folder: str) -> None:
        if not self._skip("sync_all", folder):
            self._sync(lambda _: True)

    @_alone
    def close(self, fd: int) -> None:
        super().close(fd)
        del self._fds[fd]

    @_alone
    def make_folder(self, path: str) -> None:
        super().make_folder(path)
        parent, name = os.path.split(path)
        self._link(self._inode(parent), name, is_folder=True)

    @_alone
    def make_folders(self, path: str) -> None:
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for folder in reversed(missing):
            self.make_folder(folder)

    @_alone
    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        (parent, name), (to_parent, to_name) = os.path.split(old), os.path.split(new)
        folder, to_folder = self._inode(parent), self._inode(to_parent)
        inode = self._folders[folder].entries.pop(name)
        self._folders[to_folder].entries[to_name] = inode
        self.ops.append(Op("move", inode, folder, name, to_folder, to_name))

    @_alone
    def remove(self, path: str) -> None:
        super().remove(path)
        parent, name = os.path.split(path)
        folder = self._inode(parent)
        inode = self._folders[folder].entries.pop(name)
        self.ops.append(Op("unlink", inode, folder, name))

    # -- noting them

    def _inode(self, path: str) -> int:
        inode = 0
        for name in Path(path).relative_to(self._root).parts:
            inode = self._folders[inode].entries[name]
        return inode

    def _link(self, folder: int, name: str, *, is_folder: bool) -> int:
        inode = next(self._numbers)
        self._folders[folder].entries[name] = inode
        if is_folder:
            self._folders[inode] = _Folder(inode)
        self.ops.append(Op("link", inode, folder, name, data=b"folder" if is_folder else b""))
        return inode

    def _opened(self, fd: int, path: str) -> None:
        parent, name = os.path.split(path)
        folder = self._inode(parent)
        inode = self._folders[folder].entries.get(name)
        if inode is None:
            inode = self._link(folder, name, is_folder=False)
        self._fds[fd] = (inode, path)

    def _sync(self, covers: Callable[[Op], bool]) -> None:
        self.ops.append(Op("sync", -1))  # the moment before it is one of its own
        for op in self.ops:
            if op.synced_by is None and covers(op):
                op.synced_by = len(self.ops)

    # -- what could be found after it

    def image(self, place: Path, moment: int, fate: Callable[[Op], str]) -> None:
        """The folder after a power failure when so many ops were done. `fate` of each that was not durable: `kept`,
        `dropped`, or of a write `nul` (the length is there, the bytes are not) or `torn`."""
        files: dict[int, bytearray] = {}
        folders: dict[int, dict[str, int]] = {0: {}}
        for op in self.ops[:moment]:
            if op.kind == "link":
                if op.data:
                    folders.setdefault(op.inode, {})
                else:
                    files.setdefault(op.inode, bytearray())
            if op.kind == "sync":
                continue
            durable = op.synced_by is not None and op.synced_by <= moment
            what = "kept" if durable else fate(op)
            if what != "dropped":
                _do(op, what, files, folders)
        _materialise(place, 0, files, folders)


def _do(op: Op, what: str, files: dict[int, bytearray], folders: dict[int, dict[str, int]]) -> None:
    if op.kind == "link":
        folders[op.folder][op.name] = op.inode
    elif op.kind == "unlink":
        folders[op.folder].pop(op.name, None)
    elif op.kind == "move":
        folders[op.folder].pop(op.name, None)
        folders[op.to_folder][op.to_name] = op.inode
        if op.partner is not None:
            folders[op.folder][op.name] = op.partner
    elif op.kind == "cut":
        file = files[op.inode]
        del file[op.at :]
        file.extend(bytes(op.at - len(file)))
    else:
        data = {"kept": op.data, "nul": bytes(len(op.data)), "torn": op.data[: len(op.data) // 2]}[what]
        file = files[op.inode]
        file.extend(bytes(max(0, op.at + len(data) - len(file))))
        file[op.at : op.at + len(data)] = data


def _materialise(place: Path, inode: int, files: dict[int, bytearray], folders: dict[int, dict[str, int]]) -> None:
    place.mkdir()
    for name, child in folders[inode].items():
        if child in folders:
            _materialise(place / name, child, files, folders)
        else:
            (place / name).write_bytes(files[child].rstrip(b"\0") if name.endswith(".log") else files[child])


def fates(count: int, seed: int) -> Iterator[Callable[[Op], str]]:
    """Nothing that was not synced is there; all of it; and some of it, so often."""
    yield lambda _: "dropped"
    yield lambda _: "kept"
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")

        def fate(op: Op, chance: random.Random = chance) -> str:
            choices = ("kept", "dropped", "nul", "torn") if op.kind == "write" else ("kept", "dropped")
            return chance.choice(choices)

        yield fate


def images(disk: RecordingDisk, place: Path, *, first: int, seed: int, each: int = 3) -> Iterator[tuple[int, Path]]:
    """A folder for each moment from `first` on and each fate; gone when the next is asked for."""
    for moment in range(first, len(disk.ops) + 1):
        for number, fate in enumerate(fates(each, seed * 1_000_003 + moment)):
            found = place / f"{moment}-{number}"
            disk.image(found, moment, fate)
            yield moment, found
            shutil.rmtree(found)
