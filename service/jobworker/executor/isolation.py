"""The executor's own namespaces, the user that jobs run as, and the loss of privileges. It knows neither jobs nor the
socket; what jobs see of files is `rootfs`.

The outer process enters the namespaces, its child furnishes them as their PID 1. Both are first tried by a child that
ends again, so that a half-done isolation never stays.
"""

import os
import pwd
import resource
from functools import partial
from typing import Callable, NamedTuple, Optional

from . import identity, libc, rootfs

# Who owns nothing, where no other user is named: nobody, as every distribution has it.
_NOBODY = 65534


class User(NamedTuple):
    """Whom jobs run as."""

    uid: int
    gid: int


class Setting(NamedTuple):
    """What the namespaces are furnished with."""

    view: rootfs.View
    user: Optional[User]  # None: the one that the executor was started as
    uids: Optional[identity.Uids] = None  # of jobs, each of which then runs as another than `user`


def enter(processes: Optional[int] = None) -> None:
    """Own mount and IPC namespaces, and a pid namespace for the children to come; in a user namespace, where it takes
    one. `processes`: so many of this user's, in all, bound what is started in that user namespace (RLIMIT_NPROC).

    Raises:
        OSError: the kernel, or a policy on top of it, forbids that.
    """
    uid, gid = os.getuid(), os.getgid()
    wanted = libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWIPC
    try:
        libc.unshare(wanted)
    except PermissionError:
        # Since Linux 5.14 a user namespace keeps its maker's RLIMIT_NPROC, for all in it (kernel/user_namespace.c).
        own = resource.getrlimit(resource.RLIMIT_NPROC)
        if processes is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, own[1]))
        libc.unshare(libc.CLONE_NEWUSER | wanted)
        resource.setrlimit(resource.RLIMIT_NPROC, own)
        # user_namespaces(7): a process without privileges may map itself alone, once setgroups(2) is given up.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    # What the machine mounts later still arrives, what is mounted here does not leave.
    libc.mount(None, "/", None, libc.MS_REC | libc.MS_SLAVE)


def furnish(setting: Setting) -> None:
    """As PID 1 of the new pid namespace: the files that jobs see, their user, and no privileges."""
    rootfs.build(setting.view)
    drop_privileges(setting.user, uids=setting.uids)


def drop_privileges(user: Optional[User], *, uids: Optional[identity.Uids] = None) -> None:
    """For this process and all below it: another user, no capabilities, and no way to gain any by an exec. With `uids`
    this process keeps what it needs to start processes of those, which then have none.

    Raises:
        OSError: it may not become that user, or one of `uids`.
    """
    libc.drop_bounding_set()  # first: it takes a capability
    if user is not None:
        os.setgroups([])
        if uids is not None:
            libc.prctl(libc.PR_SET_KEEPCAPS, 1)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    if uids is None:
        libc.drop_capabilities()
    else:
        _keep_some(uids)
    if user is not None:
        # prctl(2): a change of user clears it, and /proc/self is another's then, until `hide_from_jobs` wants that.
        libc.prctl(libc.PR_SET_DUMPABLE, 1)


def _keep_some(uids: identity.Uids) -> None:
    """The capabilities to run jobs as those users."""
    libc.prctl(libc.PR_SET_KEEPCAPS, 0)
    libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_CLEAR_ALL)
    libc.set_capabilities(identity.REMOVING, identity.WORKING)
    trial = identity.Identity(uids)
    for uid in (uids.first, uids.last):
        with trial.assumed(uid):
            pass


def find_user(name: Optional[str]) -> User:
    """`name`: an account, or numbers: UID or UID:GID; None: nobody.

    Raises:
        ValueError: there is no such account.
    """
    if name is None:
        return User(_NOBODY, _NOBODY)
    uid, _, gid = name.partition(":")
    if uid.isdigit() and (not gid or gid.isdigit()):
        return User(int(uid), int(gid or uid))
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"there is no user {name} on this machine") from None
    return User(account.pw_uid, account.pw_gid)


def hide_from_jobs() -> None:
    """Processes of the same user can neither trace this one nor take its descriptors from /proc/PID/fd: prctl(2)."""
    libc.prctl(libc.PR_SET_DUMPABLE, 0)


def try_out(setting: Setting) -> str:
    """What fails, in words; empty if all of it works here. Nothing of it stays."""
    return _in_child(partial(_trial, setting))


def try_user(user: User, uids: Optional[identity.Uids] = None) -> str:
    """Whether this process may become that user, and start others as `uids`: what fails, in words."""
    return _in_child(partial(drop_privileges, user, uids=uids))


def try_folder(path: str, user: User) -> str:
    """Whether that user can go to a folder: what fails, in words."""

    def go() -> None:
        drop_privileges(user)
        os.chdir(path)

    return _in_child(go)


def _trial(setting: Setting) -> None:
    enter()
    detail = _in_child(partial(furnish, setting))
    if detail:
        raise OSError(detail)


def _in_child(act: Callable[[], None]) -> str:
    """What went wrong, in words; empty: nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException as error:  # a forked copy must never go back up the stack
            os.write(writing, str(error).encode()[:4000])
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        detail = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return detail or ("" if status == 0 else f"the trial ended with status {status}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
