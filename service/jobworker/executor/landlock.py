"""Landlock (landlock(7)): what a thread and all that it starts may do with files and ports, where namespaces cannot say
so. An allow-list of the kernel's own that takes no privilege. It knows neither jobs nor policy.
"""

import ctypes
import os
import stat
import struct
from typing import Sequence

from . import libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH, _NET_PORT = 1, 2  # enum landlock_rule_type

# linux/landlock.h, LANDLOCK_ACCESS_FS_*: bits in order, and the version of the interface that brought the later ones.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FIRST_VERSION = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_BIND_TCP = 1  # LANDLOCK_ACCESS_NET_BIND_TCP
_SCOPES = 3  # abstract unix sockets, and signals

_FILES = 1
_PORTS = 4
_SCOPED = 6


def version() -> int:
    """Of the kernel's interface; 0: it has none, or it is switched off."""
    return max(0, libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)))


def can_restrict_files() -> bool:
    """Whether `restrict` can take paths."""
    return version() >= _FILES


def can_restrict_ports() -> bool:
    """Whether `restrict` can take ports. Linux 6.7."""
    return version() >= _PORTS


def restrict(
    *,
    readable: Sequence[str] = (),
    writable: Sequence[str] = (),
    files: bool = False,
    closed_ports: Sequence[int] = (),
) -> None:
    """Restricts this thread, and all that it starts, for good.

    Args:
        readable: with `files`, what may be read and executed, and all below.
        writable: what may be read, executed and written.
        files: whether paths are restricted at all; then signals and abstract sockets to others are as well, where the
            kernel knows that (6.12).
        closed_ports: TCP ports that may not be bound.

    Raises:
        OSError: the kernel cannot. Nothing is restricted.
    """
    known = version()
    handled = 0
    if files:
        handled = _FIRST_VERSION
        handled |= (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0) | (_IOCTL_DEV if known >= 5 else 0)
    net = _BIND_TCP if closed_ports else 0
    scoped = _SCOPES if files and known >= _SCOPED else 0
    # struct landlock_ruleset_attr grew: an older kernel takes the shorter one, or a longer one that ends in zeros.
    attributes = struct.pack("=QQQ", handled, net, scoped)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    if ruleset < 0:
        raise libc.last_error("landlock_create_ruleset")
    try:
        devices = handled & ~(_MAKE_CHAR | _MAKE_BLOCK)
        for paths, access in ((readable, handled & (_EXECUTE | _READ_FILE | _READ_DIR)), (writable, devices)):
            for path in paths if files else ():
                _allow_path(ruleset, path, access)
        if closed_ports:
            _allow_other_ports(ruleset, frozenset(closed_ports))
        if libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)) < 0:
            raise libc.last_error("landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            # The kernel takes no others of files.
            access &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
        _add(ruleset, _PATH_BENEATH, struct.pack("=Qi", access, fd))
    finally:
        os.close(fd)


def _allow_other_ports(ruleset: int, closed: "frozenset[int]") -> None:
    # A rule allows one port, and none forbids one: so there is one for each of the others, and for 0, any free one.
    for port in range(65536):
        if port not in closed:
            _add(ruleset, _NET_PORT, struct.pack("=QQ", _BIND_TCP, port))


def _add(ruleset: int, kind: int, attributes: bytes) -> None:
    if libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), attributes, ctypes.c_uint(0)) < 0:
        raise libc.last_error("landlock_add_rule")
