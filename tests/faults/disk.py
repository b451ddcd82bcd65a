"""A small file system of its own for the data folder, that can fill up, fail, or lose its power. Needs root.

Its mounts lie in a mount namespace of this program's own (`own_mounts`): they and their loop devices go with it,
however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # unshare(2)
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18  # mount(2)
# ext4.h: cuts the file system off at once; what the journal did not have on disk is lost, as when the power fails.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2
_SYNC_FILE_RANGE_WRITE = 2  # sync_file_range(2)
_BUSY_SECONDS = 60.0
_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """Gives this process, and all that it starts, a mount namespace of its own. Before any thread is started."""
    _check(_libc.unshare(_CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass
class Disk:
    """Mounted at `place`. `kind` is ext4 (with a journal, on a loop device) or tmpfs."""

    place: Path
    image: Path
    kind: str = "ext4"
    mib: int = 128
    options: tuple[str, ...] = ()
    inodes: int | None = None
    _loop: str = field(default="", init=False)
    _mounted: bool = field(default=False, init=False)

    def make(self) -> None:
        """Makes it anew, and mounts it.

        Raises:
            subprocess.CalledProcessError: this machine cannot.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        if self.kind == "ext4":
            self.image.unlink(missing_ok=True)
            with self.image.open("wb") as file:
                file.truncate(self.mib << 20)
            inodes = () if self.inodes is None else ("-N", str(self.inodes))
            _run(
                "mkfs.ext4",
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                "-m",
                "0",
                *inodes,
                str(self.image),
            )
        self.mount()

    def mount(self) -> None:
        """After `make`, or `unmount`: ext4 plays its journal."""
        if self.kind == "tmpfs":
            sizes = [f"size={self.mib}m"] + ([] if self.inodes is None else [f"nr_inodes={self.inodes}"])
            _run("mount", "-t", "tmpfs", "-o", ",".join([*sizes, *self.options]), "tmpfs", str(self.place))
        else:
            self._loop = _run("losetup", "--find", "--show", str(self.image)).strip()
            options = ("-o", ",".join(self.options)) if self.options else ()
            try:
                _run("mount", "-t", "ext4", *options, self._loop, str(self.place))
            finally:
                _run("losetup", "-d", self._loop)  # once nobody uses it any more
        self._mounted = True
        self.place.chmod(0o700)

    def cut(self) -> None:
        """The power fails: from here on every access is EIO, and what was not synced is gone for good."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(fd)

    def write_back(self, path: str) -> None:
        """Has the kernel begin to write a file's pages now, as it does at any time by itself. Syncs nothing."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # it was moved meanwhile, or the disk is cut
        try:
            _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Once nobody uses it: other mount namespaces hold it as well, until their processes are gone.

        Raises:
            TimeoutError: somebody goes on using it.
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        while (
            self._mounted and subprocess.run(["umount", str(self.place)], capture_output=True, check=False).returncode
        ):
            if time.monotonic() > deadline:
                subprocess.run(["umount", "-l", str(self.place)], capture_output=True, check=False)
                raise TimeoutError(f"{self.place} is in use")
            time.sleep(0.05)
        self._mounted = False
        if self._loop:
            backing = Path("/sys/block") / Path(self._loop).name / "loop/backing_file"
            while backing.exists() and backing.read_text().strip() == str(self.image):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self._loop} is in use")
                time.sleep(0.02)
            self._loop = ""

    def close(self) -> None:
        """Removes it."""
        with contextlib.suppress(TimeoutError):  # it goes with its last user
            self.unmount()
        self.image.unlink(missing_ok=True)


def cannot(kind: str = "ext4") -> str:
    """Why this machine cannot have such disks; empty where it can. It is tried out."""
    if os.geteuid() != 0:
        return "needs root"
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="jobworker-faults-") as folder:
        disk = Disk(Path(folder) / "try", Path(folder) / "image", kind, mib=16)
        try:
            disk.make()
            if kind == "ext4":
                disk.cut()
        except subprocess.CalledProcessError as error:
            return f"{error.cmd[0]}: {error.stderr.strip()}"
        except OSError as error:
            return str(error)
        finally:
            disk.close()
    return ""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
