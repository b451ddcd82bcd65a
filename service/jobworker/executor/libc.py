"""The few calls of the C library that Python 3.9 lacks, by ctypes. It knows no policy: who calls decides what for."""

import ctypes
import errno
import os
import signal
from typing import Any, Iterable, List, Optional, Sequence

CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1  # sys/mount.h
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MS_RELATIME = 1 << 21
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1  # sys/prctl.h
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_CHOWN = 0  # linux/capability.h
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SYS_PTRACE = 19

# System calls without a function in every C library. Those from 424 on have one number on every architecture.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
# setresuid and setresgid of one thread: the C library's own are of all threads (nptl(7)).
_SETRESUID = {"x86_64": 117, "aarch64": 147, "riscv64": 147}
_SETRESGID = {"x86_64": 119, "aarch64": 149, "riscv64": 149}
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_AT_RECURSIVE = 0x8000  # fcntl.h
_RESOLVE_NO_MAGICLINKS = 2  # linux/openat2.h

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_POSIX_SPAWN_SETSIGDEF = 0x04  # spawn.h, the same in glibc and musl
_POSIX_SPAWN_SETSIGMASK = 0x08
_POSIX_SPAWN_SETSID = 0x80

_FALLOC_FL_KEEP_SIZE = 0x01  # linux/falloc.h
_FALLOC_FL_PUNCH_HOLE = 0x02

# CDLL lets go of the interpreter's lock during a call, PyDLL keeps it: posix_spawn waits for the child's exec and must
# not hold up the pump; its preparations are shorter than a change of hands.
_libc = ctypes.CDLL(None, use_errno=True)
_brief = ctypes.PyDLL(None)
_brief_errno = ctypes.PyDLL(None, use_errno=True)
# With offsets of 64 bits everywhere: glibc has a function of its own for it, musl has no other.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check("unshare", _libc.unshare(ctypes.c_int(flags)))


def mount(source: Optional[str], target: str, kind: Optional[str], flags: int, data: Optional[str] = None) -> None:
    """mount(2)."""
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    result = _libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3])
    _check(f"mount {target}", result)


def unmount(target: str) -> None:
    """umount2(2), MNT_DETACH: out of sight at once."""
    _check(f"umount {target}", _libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)))


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root: its number on {os.uname().machine} is not known")
    _check("pivot_root", syscall(number, os.fsencode(new_root), os.fsencode(put_old)))


def restrict_mounts(target: str, flags: int) -> None:
    """mount_setattr(2) with AT_RECURSIVE: sets MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC on a mount and all below it.

    Raises:
        OSError: among others, with ENOSYS, of kernels before 5.12.
    """
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)  # struct mount_attr; MOUNT_ATTR_* of these four are the same
    arguments = (ctypes.c_int(-1), os.fsencode(target), ctypes.c_uint(_AT_RECURSIVE), attributes, ctypes.c_size_t(32))
    _check(f"mount_setattr {target}", syscall(_MOUNT_SETATTR, *arguments))


def open_folder(path: bytes) -> int:
    """A descriptor (O_PATH) of a folder, which no link of /proc/PID leads to: openat2(2), RESOLVE_NO_MAGICLINKS. With
    those a path reaches what this process has open, and others must not.

    Raises:
        OSError: ELOOP for such a path; ENOSYS or EPERM where the kernel or a filter does not know the call.
    """
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_NO_MAGICLINKS)  # struct open_how
    fd = syscall(_OPENAT2, ctypes.c_int(-100), path, how, ctypes.c_size_t(24))  # AT_FDCWD
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fsdecode(path))
    return fd


def remove_ipc(kind: str, identifier: int) -> None:
    """shmctl(2), msgctl(2) or semctl(2) with IPC_RMID; `kind` is "shm", "msg" or "sem". One that is gone is fine."""
    arguments = [ctypes.c_int(identifier), *([ctypes.c_int(0)] if kind == "sem" else []), ctypes.c_int(0), None]
    getattr(_libc, f"{kind}ctl")(*arguments)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2): the file has no bytes there any more, and is as long as before. Whole blocks alone become free.

    Raises:
        OSError: EOPNOTSUPP, among others, where the file system cannot.
    """
    mode = ctypes.c_int(_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE)
    _check("fallocate", _fallocate(ctypes.c_int(fd), mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def syscall(number: int, *arguments: object) -> int:
    """syscall(2); -1 with errno for `last_error`."""
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    return result


def _brief_syscall(number: int, *arguments: object) -> int:
    """One that is over before another thread could take the interpreter's lock."""
    result: int = _brief_errno.syscall(ctypes.c_long(number), *arguments)
    return result


def last_error(deed: str) -> OSError:
    """Of the last call in this thread."""
    number = ctypes.get_errno()
    return OSError(number, f"{deed}: {os.strerror(number)}")


def prctl(option: int, value: int, second: int = 0) -> int:
    """prctl(2); the result is never negative."""
    words = [ctypes.c_ulong(word) for word in (value, second, 0, 0)]
    result: int = _libc.prctl(ctypes.c_int(option), *words)
    _check(f"prctl {option}", result)
    return result


def drop_bounding_set() -> None:
    """What an exec could ever gain: capabilities(7)."""
    capability = 0
    while True:
        try:
            if prctl(PR_CAPBSET_READ, capability):
                prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if capability > 0 and error.errno == errno.EINVAL:
                break  # past the kernel's last one
            if error.errno == errno.EPERM:
                break  # no CAP_SETPCAP, so there is nothing an exec could regain but by a set-uid file
            raise
        capability += 1


def drop_capabilities() -> None:
    """Empties the four other sets: ambient, permitted, effective, inheritable."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))


def set_capabilities(permitted: Iterable[int], effective: Iterable[int]) -> None:
    """capset(2), of the calling thread and those it starts; nothing is inheritable, so that an exec loses them all."""
    allowed, used = (sum(1 << number for number in numbers) for numbers in (permitted, effective))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low = (1 << 32) - 1
    words = (used & low, allowed & low, 0, used >> 32, allowed >> 32, 0)
    _check("capset", _libc.capset(header, (ctypes.c_uint32 * 6)(*words)))


def set_thread_user(uid: int, gid: int) -> None:
    """setresgid(2) and setresuid(2), all three ids, of the calling thread alone.

    Raises:
        OSError: EPERM without CAP_SETUID and CAP_SETGID; EINVAL where the user namespace has no such id.
    """
    machine = os.uname().machine
    if machine not in _SETRESUID:
        raise OSError(errno.ENOSYS, f"setresuid: its number on {machine} is not known")
    for deed, number, value in (("setresgid", _SETRESGID[machine], gid), ("setresuid", _SETRESUID[machine], uid)):
        word = ctypes.c_uint32(value)
        if _brief_syscall(number, word, word, word) < 0:
            raise last_error(deed)


def signal_descriptor(signals: Iterable[int]) -> int:
    """signalfd(2), non-blocking, of signals that every thread has blocked. It reads structs of 128 bytes that begin
    with the signal's number (32 bits)."""
    word_bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (1024 // word_bits))()  # sigset_t holds 1024 bits
    for number in signals:
        mask[(number - 1) // word_bits] |= 1 << (number - 1) % word_bits
    fd: int = _libc.signalfd(ctypes.c_int(-1), mask, ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC))
    _check("signalfd", fd)
    return fd


class PosixSpawn:
    """posix_spawn(3) into a new session, with no signal blocked and three descriptors.

    os.posix_spawn does not let go of the interpreter's lock while the child execs.
    """

    def __init__(self) -> None:
        # posix_spawnattr_t is 336 bytes in glibc and musl, posix_spawn_file_actions_t 80; there is room to spare.
        self._attributes = ctypes.create_string_buffer(1024)
        self._init = _brief.posix_spawn_file_actions_init
        self._dup2 = _brief.posix_spawn_file_actions_adddup2
        # glibc 2.29, musl 1.1.24.
        self._fchdir = getattr(_brief, "posix_spawn_file_actions_addfchdir_np", None)
        flags = ctypes.c_short(_POSIX_SPAWN_SETSID | _POSIX_SPAWN_SETSIGMASK | _POSIX_SPAWN_SETSIGDEF)
        # Every signal to its default, the two that glibc would otherwise leave ignored as well; this also spares its
        # child a question for each. The mask of a fresh attribute object is empty (memset in both libraries).
        every = ctypes.create_string_buffer(b"\xff" * 128, 128)
        if (
            _brief.posix_spawnattr_init(self._attributes)
            or _brief.posix_spawnattr_setsigdefault(self._attributes, every)
            or _brief.posix_spawnattr_setflags(self._attributes, flags)
        ):
            raise OSError("posix_spawn cannot make a new session here")

    @property
    def has_folders(self) -> bool:
        """Whether `prepare` takes a folder; else the child starts in this process's."""
        return self._fchdir is not None

    def prepare(
        self, path: bytes, argv: Sequence[bytes], env: List[bytes], fds: Sequence[int], folder: Optional[int]
    ) -> "PreparedSpawn":
        """`fds` become 0, 1 and 2; none of them may be below 3. `folder`: a descriptor; None: this process's own. No
        string may hold a NUL.

        Raises:
            OSError: a descriptor is not below the soft RLIMIT_NOFILE, or there is no memory.
        """
        actions = ctypes.create_string_buffer(512)
        self._init(actions)
        dup2 = self._dup2
        error = dup2(actions, fds[0], 0) or dup2(actions, fds[1], 1) or dup2(actions, fds[2], 2)
        if not error and folder is not None and self._fchdir is not None:
            error = self._fchdir(actions, folder)
        if error:
            _brief.posix_spawn_file_actions_destroy(actions)
            raise OSError(error, os.strerror(error))
        words = (ctypes.c_char_p * (len(argv) + 1))(*argv)
        variables = (ctypes.c_char_p * (len(env) + 1))(*env)
        return PreparedSpawn(path, actions, self._attributes, words, variables)


class PreparedSpawn:
    """`run`, in any thread, then `close`."""

    __slots__ = ("_arguments", "_pid")

    def __init__(self, path: bytes, actions: Any, attributes: Any, words: Any, variables: Any) -> None:
        self._pid = ctypes.c_int()
        self._arguments = (ctypes.byref(self._pid), path, actions, attributes, words, variables)

    def run(self) -> int:
        """The pid.

        Raises:
            OSError: with the errno of the exec, or of the clone.
        """
        error = _libc.posix_spawn(*self._arguments)
        if error:
            raise OSError(error, os.strerror(error))
        return self._pid.value

    def close(self) -> None:
        """It was run, or will not be."""
        _brief.posix_spawn_file_actions_destroy(self._arguments[2])


def default_internal_signals() -> None:
    """Sets the two signals that the C library keeps for itself (nptl(7)) to their default. Its posix_spawn leaves them
    ignored in a child, as make's does, and its sigaction refuses them, so the kernel is asked."""
    number = {"x86_64": 13, "aarch64": 134, "riscv64": 134}.get(os.uname().machine)  # rt_sigaction
    if number is not None:
        default = (ctypes.c_uint64 * 4)()  # struct kernel_sigaction: SIG_DFL, no flags, an empty mask
        for internal in (32, 33):
            _libc.syscall(number, internal, default, None, 8)


def block_all_signals() -> None:
    """In this thread and those it starts."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def _check(deed: str, result: int) -> None:
    if result < 0:
        raise last_error(deed)
