"""What `jobpki` does to its folder, on a disk that forgets what was not synced (crashdisk.py). It calls the operating
system from two modules, publish.py and audit.py, by functions of `os` that are replaced here while a command runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from jobpki import publish
from tests.harness.crashdisk import Op, RecordingDisk

_CALLS = ("open", "fsync", "pwrite", "ftruncate", "rename", "mkdir", "unlink", "rmdir")


class PkiDisk(RecordingDisk):
    """`recorded`: what is done within goes through it. What a folder holds at the beginning is durable."""

    def __init__(self, root: Path, *, skip: Callable[[str, str], bool] = lambda _call, _path: False) -> None:
        super().__init__(root, skip=skip)
        self._contents: dict[int, bytes] = {}
        self._within = False
        for folder, _, files in os.walk(root):
            for name in files:
                self._note_content(f"{folder}/{name}")
        for op in self.ops:
            op.synced_by = 0

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:  # noqa: C901 - a function for each call
        """Within, it is this that `jobpki` runs on."""
        real = {name: getattr(os, name) for name in _CALLS}

        def through(name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                if self._within:
                    return real[name](*args, **options)
                self._within = True
                try:
                    return instead(*args, **options)
                finally:
                    self._within = False

            return call

        def open_(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            if not flags & os.O_CREAT or not self._is_ours(path):
                return int(real["open"](path, flags, mode, **options))
            return self.create(str(path)) if flags & os.O_EXCL else self.open(str(path))

        def fsync(fd: int) -> None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                self.sync_folder(path)
            else:
                self._note_content(path)
                self.sync(fd)

        def pwrite(fd: int, data: Any, at: int) -> int:
            done = int(real["pwrite"](fd, data, at))
            self._note_content(os.readlink(f"/proc/self/fd/{fd}"))
            return done

        def ftruncate(fd: int, size: int) -> None:
            self.truncate(fd, size)

        def rename(old: Any, new: Any) -> None:
            if os.path.isfile(old):
                self._note_content(str(old))
            self.rename(str(old), str(new))

        def mkdir(path: Any, mode: int = 0o777) -> None:
            self.make_folder(str(path))
            os.chmod(path, mode)

        def unlink(path: Any, **_: Any) -> None:
            self.remove(str(path))

        def rmdir(path: Any, **_: Any) -> None:
            real["rmdir"](path)
            parent, name = os.path.split(str(path))
            folder = self._inode(parent)
            self.ops.append(Op("unlink", self._folders[folder].entries.pop(name), folder, name))

        ours = {"open": open_, "fsync": fsync, "pwrite": pwrite, "ftruncate": ftruncate, "rename": rename,
                "mkdir": mkdir, "unlink": unlink, "rmdir": rmdir}  # fmt: skip
        with contextlib.ExitStack() as stack:
            for name, function in ours.items():
                stack.enter_context(mock.patch.object(os, name, through(name, function)))
            stack.enter_context(mock.patch.object(shutil, "rmtree", _remove_tree))
            stack.enter_context(mock.patch.object(publish, "_exchange", self._exchange))
            yield

    def _is_ours(self, path: Any) -> bool:
        return str(path).startswith(f"{self._root}/")

    def _exchange(self, one: Path, other: Path) -> bool:
        """renameat2(2) with RENAME_EXCHANGE, which is one step on the disk too."""
        aside = f"{one}.aside"
        self._within = True
        os.rename(one, aside)
        os.rename(other, one)
        os.rename(aside, other)
        self._within = False
        folder = self._inode(str(one.parent))
        entries = self._folders[folder].entries
        entries[one.name], entries[other.name] = entries[other.name], entries[one.name]
        self.ops.append(
            Op("move", entries[other.name], folder, one.name, folder, other.name, partner=entries[one.name])
        )
        return True

    def _note_content(self, path: str) -> None:
        """A file has been written to since, by whichever call."""
        inode = self._inode(path)
        content = Path(path).read_bytes()
        before = self._contents.get(inode, b"")
        if content != before:
            if content.startswith(before):
                self.ops.append(Op("write", inode, at=len(before), data=content[len(before) :]))
            else:
                self.ops += [Op("cut", inode, at=0), Op("write", inode, data=content)]
            self._contents[inode] = content


def _remove_tree(path: Any, ignore_errors: bool = False) -> None:
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def with_modes(root: Path) -> Path:
    """An image, which has no modes, with those that a PKI folder has at least."""
    for folder, names, files in os.walk(root):
        for name in names:
            os.chmod(f"{folder}/{name}", 0o700)
        for name in files:
            os.chmod(f"{folder}/{name}", 0o600)
    os.chmod(root, 0o700)
    return root
