"""The file system that jobs see: a new root that holds what they may read, what they may write, and nothing else.

A sandbox by allowance, as bubblewrap builds one: an empty tmpfs becomes the root, and named folders of the machine are
bound into it, read-only unless they are named as writable. Of its own it has /tmp, /dev, /dev/shm, /run and /proc. No
device node works but those of /dev, and no socket of the machine is there unless a named folder holds it.

`build` is called by PID 1 of the new pid namespace, in the new mount namespace. It knows neither jobs nor users.
"""

import errno
import os
from typing import List, NamedTuple, Optional, Sequence, Set

from . import libc

# Programs, libraries and their settings, as distributions lay them out; hier(7). Homes, /root, /srv, /mnt and /var are
# not among them: they hold people's files, sockets and caches.
READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/sys", "/nix/store", "/gnu/store",
)  # fmt: skip

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_READ_ONLY = libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV
_PRIVATE = libc.MS_NOSUID | libc.MS_NODEV
_OLD, _NEW = "/old", "/new"


class View(NamedTuple):
    """What jobs see of the machine. Absolute paths; what does not exist is passed over."""

    readable: Sequence[str]
    writable: Sequence[str]
    hidden: Sequence[str]  # whatever the others say
    work: Optional[str]  # of the writable ones, that of the work folders
    tmp: Optional[str]  # the folder that is their /tmp, on disk; None: a tmpfs


def build(view: View) -> None:
    """Makes the new root this process's, and leaves nothing of the old one.

    Raises:
        OSError: the kernel, or a policy on top of it, forbids a step.
    """
    hidden = [os.path.realpath(path) for path in view.hidden if os.path.exists(path)]
    writable = [path for path in view.writable if os.path.exists(path)]
    names = os.path.realpath("/etc/resolv.conf")  # often a link into /run
    _pivot()
    libc.mount("tmpfs", _NEW, "tmpfs", _PRIVATE, "mode=0755,size=4m")
    _make_own(view.tmp)
    bound: Set[str] = set()
    for path in sorted(view.readable, key=_real):
        _bind(path, _READ_ONLY, bound)
    for path in sorted(writable, key=_real):
        _bind(path, _PRIVATE, bound)
    if names.startswith("/run/"):
        _bind(names, _READ_ONLY, bound)
    libc.mount("proc", f"{_NEW}/proc", "proc", _PRIVATE | libc.MS_NOEXEC)
    for path in hidden:
        _cover(_NEW + path)
    os.chdir(_NEW)
    # pivot_root(2): with the same folder twice the old root lies over the new one, and is then taken away.
    libc.pivot_root(".", ".")
    libc.unmount(".")
    os.chdir("/")
    if os.getuid() == 0:
        # Root without capabilities still owns these files, and could have the kernel run programs through them.
        for path in filter(os.path.exists, ("/proc/sys", "/proc/sysrq-trigger")):
            libc.mount(path, path, None, libc.MS_BIND | libc.MS_REC)
            _restrict(path, _READ_ONLY | libc.MS_NOEXEC)
    libc.mount(None, "/dev", None, libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NOEXEC)
    libc.mount(None, "/", None, libc.MS_REMOUNT | libc.MS_BIND | _READ_ONLY)


def _pivot() -> None:
    """The machine's root goes to /old, out of the way of what is mounted from now on."""
    staging = "/tmp"  # noqa: S108  any folder that every machine has
    libc.mount("tmpfs", staging, "tmpfs", _PRIVATE, "mode=0755,size=1m")
    os.chdir(staging)
    os.mkdir("old")
    os.mkdir("new")
    libc.pivot_root(".", "old")
    os.chdir("/")


def _make_own(tmp: Optional[str]) -> None:
    for name in ("proc", "dev", "run", "tmp", "var"):
        os.mkdir(f"{_NEW}/{name}")
    for name in ("tmp", "run"):
        os.symlink(f"../{name}", f"{_NEW}/var/{name}")
    libc.mount("tmpfs", f"{_NEW}/run", "tmpfs", _PRIVATE, "mode=1777,size=16m")
    place = f"{_NEW}/tmp"  # noqa: S108
    if tmp is None:
        libc.mount("tmpfs", place, "tmpfs", _PRIVATE, "mode=1777,size=25%")
    else:
        libc.mount(_OLD + _real(tmp), place, None, libc.MS_BIND)
        _restrict(place, _PRIVATE)
    _make_devices(f"{_NEW}/dev")


def _make_devices(folder: str) -> None:
    libc.mount("tmpfs", folder, "tmpfs", libc.MS_NOSUID | libc.MS_NOEXEC, "mode=0755,size=1m")
    for name in _DEVICES:
        if os.path.exists(f"{_OLD}/dev/{name}"):
            _touch(f"{folder}/{name}")
            libc.mount(f"{_OLD}/dev/{name}", f"{folder}/{name}", None, libc.MS_BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{folder}/{name}")
    os.mkdir(f"{folder}/shm")
    libc.mount("tmpfs", f"{folder}/shm", "tmpfs", _PRIVATE, "mode=1777,size=25%")
    os.mkdir(f"{folder}/pts")
    try:
        flags = libc.MS_NOSUID | libc.MS_NOEXEC
        libc.mount("devpts", f"{folder}/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", f"{folder}/ptmx")
    except OSError:
        pass  # no terminals of their own, then


def _bind(path: str, flags: int, bound: Set[str]) -> None:
    """A path of the machine, at the same place. One that leads over links is bound where they lead."""
    if not os.path.lexists(_OLD + path):
        return
    real = _real(path)
    if real != os.path.normpath(path) and not os.path.lexists(_NEW + path):
        _make_folders(os.path.dirname(_NEW + path))
        os.symlink(real, _NEW + path)
    if real in bound or (flags & libc.MS_RDONLY and any(real.startswith(f"{each}/") for each in bound)):
        return
    if not os.path.exists(_OLD + real):
        return
    if not os.path.exists(_NEW + real):
        if os.path.isdir(_OLD + real):
            _make_folders(_NEW + real)
        else:
            _make_folders(os.path.dirname(_NEW + real))
            _touch(_NEW + real)
    libc.mount(_OLD + real, _NEW + real, None, libc.MS_BIND | libc.MS_REC)
    _restrict(_NEW + real, flags)
    bound.add(real)


def _real(path: str) -> str:
    """realpath(3) within the old root, whose absolute links begin there."""
    parts = path.split("/")[::-1]
    real = ""
    for _ in range(4096):
        if not parts:
            break
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            real = os.path.dirname(real)
            continue
        try:
            target = os.readlink(f"{_OLD}{real}/{part}")
        except OSError:
            real = f"{real}/{part}"
            continue
        if target.startswith("/"):
            real = ""
        parts += target.split("/")[::-1]
    return real or "/"


def _restrict(target: str, flags: int) -> None:
    try:
        libc.restrict_mounts(target, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _restrict_each(target, flags)


def _restrict_each(target: str, flags: int) -> None:
    """For kernels before 5.12: mount by mount. What a mount has of these flags it must keep (mount_namespaces(7))."""
    known = {b"ro": libc.MS_RDONLY, b"nosuid": libc.MS_NOSUID, b"nodev": libc.MS_NODEV, b"noexec": libc.MS_NOEXEC,
             b"noatime": libc.MS_NOATIME, b"nodiratime": libc.MS_NODIRATIME, b"relatime": libc.MS_RELATIME}  # fmt: skip
    proc = f"{_OLD}/proc" if os.path.isdir(_OLD) else "/proc"
    with open(f"{proc}/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    for fields in lines:
        # proc_pid_mountinfo(5): the fifth field is the mount point, with octal escapes, the sixth its options.
        point = os.fsdecode(fields[4].decode("unicode_escape").encode("latin-1"))
        if point == target or point.startswith(f"{target}/"):
            own = sum(known.get(option, 0) for option in fields[5].split(b","))
            libc.mount(None, point, None, libc.MS_REMOUNT | libc.MS_BIND | own | flags)


def _cover(path: str) -> None:
    """Nothing is to be seen here."""
    if os.path.isdir(path):
        libc.mount("tmpfs", path, "tmpfs", _READ_ONLY | libc.MS_NOEXEC, "size=4k,mode=0555")
    elif os.path.exists(path):
        libc.mount(f"{_OLD}/dev/null", path, None, libc.MS_BIND)


def _make_folders(path: str) -> None:
    missing: List[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        os.mkdir(each)
        os.chmod(each, 0o755)  # noqa: S103  whatever the umask


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
