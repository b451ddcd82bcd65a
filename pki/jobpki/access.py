"""Who may read and change a file: what is demanded of it before its content is believed. Knows no certificates.

A secret is closed to everyone but its owner. A group may have a part in it where the machine is made so: files of root
(a Secret of Kubernetes, root:GROUP 0440, or /etc/ssl/private), volumes that a group owns (fsGroup: folders with the
set-group-ID bit, files 0660), and the group that a user has alone. What is public may be read by all and changed by the
same ones. Nobody else may put another file in its place either: that is what folders are asked for.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from jobpki.errors import PkiError

_LINKS_MOST = 40  # as the kernel has it (path_resolution(7))


def read_secret(path: Path) -> bytes:
    """The content of a key, password or users file, which is not empty.

    Raises:
        PkiError: it is missing, empty or no file, or others may read or change it, or put another in its place; says
            what to do.
    """
    return _read(path, is_secret=True)


def read_public(path: Path) -> bytes:
    """The content of a certificate's file: as `read_secret`, but for all to read."""
    return _read(path, is_secret=False)


def check_secret(path: Path) -> None:
    """As `read_secret`, of a file that need not be there, and that this process need not be able to read.

    Raises:
        PkiError: others may read or change it.
    """
    try:
        found = path.stat()
    except OSError:
        return
    _check_file(path, found, is_secret=True, is_read_only=bool(os.statvfs(path).f_flag & os.ST_RDONLY))
    _check_way(path)


def check_folder(folder: Path) -> None:
    """That nobody else may put anything into a folder, or another folder in its place.

    Raises:
        PkiError: somebody may; says what to do.
    """
    real = folder.resolve()
    if os.path.ismount(real) or os.statvfs(real).f_flag & os.ST_RDONLY:
        # The root of a volume is as whoever mounts it has made it (an emptyDir of Kubernetes: 0777), for this
        # container alone. What lies in it is asked for as ever.
        pass
    else:
        found = real.stat()
        mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
        command = f"run: chmod go-w {shlex.quote(str(folder))}"
        if found.st_mode & stat.S_IWOTH:
            raise PkiError(f"every user of this machine may put files into it ({mode})", path=folder, mend=command)
        if found.st_mode & stat.S_IWGRP and not _is_trusted(found.st_gid, found):
            group = _group(found.st_gid)
            raise PkiError(f"its group {group} may put files into it ({mode})", path=folder, mend=command)
        if os.geteuid() not in (0, found.st_uid) and found.st_uid != 0:
            raise PkiError(f"belongs to {owner_name(found.st_uid)}", path=folder, mend=_chown(folder))
    for above in real.parents:
        others = above.stat().st_mode
        # With the sticky bit, as /tmp has it, nobody may rename what is another's.
        if others & stat.S_IWOTH and not others & stat.S_ISVTX and not os.path.ismount(above):
            raise PkiError(
                f"every user of this machine may put files into it (mode {stat.S_IMODE(others):04o}), "
                f"and so another folder in the place of {folder}",
                path=above,
                mend=f"run: chmod o-w {shlex.quote(str(above))}",
            )


def _read(path: Path, *, is_secret: bool) -> bytes:
    try:
        # A FIFO would have us wait for whoever writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise PkiError(f"is a symbolic link to {path.readlink()}, which is missing", path=path) from error
        raise PkiError("is missing", path=path) from error
    except OSError as error:
        raise PkiError(f"cannot be read ({error.strerror})", path=path) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise PkiError("is not a regular file", path=path)
        is_read_only = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
        _check_file(path, found, is_secret=is_secret, is_read_only=is_read_only)
        _check_way(path)
        try:
            content = file.read()
        except OSError as error:
            raise PkiError(f"cannot be read ({error.strerror})", path=path) from error
    if not content:
        raise PkiError("is empty", path=path)
    return content


def _check_file(path: Path, found: os.stat_result, *, is_secret: bool, is_read_only: bool) -> None:
    folder = path.resolve().parent.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH:
        who, may = "every user of this machine", "change it"
    elif is_secret and mode & stat.S_IRWXO:
        who, may = "every user of this machine", "read it"
    elif mode & stat.S_IWGRP and not _is_trusted(found.st_gid, folder):
        who, may = f"its group {_group(found.st_gid)}", "change it"
    elif is_secret and mode & stat.S_IRWXG and found.st_uid != 0 and not _is_trusted(found.st_gid, folder):
        who, may = f"its group {_group(found.st_gid)}", "read it"
    elif found.st_uid not in (0, os.geteuid()) and not (os.geteuid() == 0 and found.st_uid == folder.st_uid):
        raise PkiError(f"belongs to {owner_name(found.st_uid)}, who may change it", path=path, mend=_chown(path))
    else:
        return
    raise PkiError(f"{who} may {may} (mode {mode:04o})", path=path, mend=_chmod(path, found, is_secret, is_read_only))


def _check_way(path: Path) -> None:
    """That nobody else may put another file in the place of this one, or of the one that it leads to."""
    here = path
    for _ in range(_LINKS_MOST):
        check_folder(here.parent)
        if not here.is_symlink():
            return
        owner = here.lstat().st_uid
        # In a folder like /tmp, where all may make links.
        if owner not in (0, os.geteuid(), here.parent.stat().st_uid):
            command = f"run: rm {shlex.quote(str(here))}"
            raise PkiError(f"is a symbolic link of {owner_name(owner)}", path=here, mend=command)
        here = here.parent / here.readlink()


def _is_trusted(gid: int, folder: os.stat_result) -> bool:
    """Whether a group may have a part in what is ours."""
    if gid not in (os.getegid(), *os.getgroups()):
        return False
    # Kubernetes gives a volume to its fsGroup so; on a machine somebody has decided it.
    if folder.st_mode & stat.S_ISGID and folder.st_gid == gid:
        return True
    # Each user has a group of the same name on most systems, and then often the umask 002.
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def _chmod(path: Path, found: os.stat_result, is_secret: bool, is_read_only: bool) -> str:
    if is_read_only:
        return "mount it with mode 0440 (of a Secret: defaultMode)"
    if not is_secret:
        return f"run: chmod 0644 {shlex.quote(str(path))}"
    # Of root's file our group is what lets us read it.
    mode = "0640" if found.st_uid == 0 and os.geteuid() != 0 else "0600"
    return f"run: chmod {mode} {shlex.quote(str(path))}"


def _chown(path: Path) -> str:
    return f"run: chown {owner_name(os.geteuid())} {shlex.quote(str(path))}"


def owner_name(uid: int) -> str:
    """What a user of this machine is called; the number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
