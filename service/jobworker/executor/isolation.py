"""The executor's own namespaces and the loss of its privileges, as a sandbox does it, for the sake of the secrets of
the machine it runs on. It knows neither jobs nor the socket.

The outer process enters the namespaces, its child furnishes them as their PID 1. Both are first tried by a child that
ends again, so that a half-done isolation never stays.
"""

import errno
import os
from functools import partial
from typing import Callable, Sequence

from . import libc


def enter() -> None:
    """Own mount namespace, and a pid namespace for the children to come; in a user namespace, where it takes one.

    Raises:
        OSError: the kernel, or a policy on top of it, forbids that.
    """
    uid, gid = os.getuid(), os.getgid()
    try:
        libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWPID)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS | libc.CLONE_NEWPID)
        # user_namespaces(7): a process without privileges may map itself alone, once setgroups(2) is given up.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    # What the machine mounts later still arrives, what is mounted here does not leave.
    libc.mount(None, "/", None, libc.MS_REC | libc.MS_SLAVE)


def furnish(hidden: Sequence[str]) -> None:
    """As PID 1 of the new pid namespace: its own /proc, and nothing to be seen at the hidden paths."""
    for path in hidden:
        _hide(os.path.realpath(path))
    libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    if os.getuid() == 0:
        # Root without capabilities still owns these files, and could have the kernel run programs through them.
        for path in ("/proc/sys", "/proc/sysrq-trigger", "/sys"):
            _read_only(path)


def drop_privileges() -> None:
    """For this process and all below it: no capabilities, and no way to gain any by an exec."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.drop_capabilities()


def hide_from_jobs() -> None:
    """Processes of the same user can neither trace this one nor take its descriptors from /proc/PID/fd: prctl(2)."""
    libc.prctl(libc.PR_SET_DUMPABLE, 0)


def try_out(hidden: Sequence[str]) -> str:
    """What fails, in words; empty if all of it works here. Nothing of it stays."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _in_child(partial(_trial, hidden), writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        detail = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return detail or ("" if status == 0 else f"the trial ended with status {status}")


def _trial(hidden: Sequence[str]) -> None:
    reading, writing = os.pipe()
    enter()
    child = os.fork()
    if child == 0:
        _in_child(partial(_trial_inner, hidden), writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        detail = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if detail or status:
        raise OSError(detail or f"PID 1 of the trial ended with status {status}")


def _trial_inner(hidden: Sequence[str]) -> None:
    furnish(hidden)
    drop_privileges()


def _in_child(act: Callable[[], None], writing: int) -> None:
    try:
        act()
    except BaseException as error:  # a forked copy must never go back up the stack
        os.write(writing, str(error).encode()[:4000])
        os._exit(1)
    os._exit(0)


def _hide(path: str) -> None:
    if os.path.isdir(path):
        flags = libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
        libc.mount("tmpfs", path, "tmpfs", flags, "size=4k,mode=0555")
    elif os.path.exists(path):
        libc.mount("/dev/null", path, None, libc.MS_BIND)


def _read_only(path: str) -> None:
    if not os.path.exists(path):
        return
    libc.mount(path, path, None, libc.MS_BIND | libc.MS_REC)
    mounts = [path]
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            # proc_pid_mountinfo(5): the fifth field is the mount point, with octal escapes.
            point = line.split()[4].decode("unicode_escape").encode("latin-1")
            if os.fsdecode(point).startswith(path + "/"):
                mounts.append(os.fsdecode(point))
    for point_path in mounts:
        flags = libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
        libc.mount(None, point_path, None, libc.MS_REMOUNT | libc.MS_BIND | flags)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
