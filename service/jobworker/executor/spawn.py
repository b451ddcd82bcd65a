"""Starts a job's first process: finds the program, enters the folder, and says precisely what failed.

One thread spawns; it alone changes the process's working directory, and nothing else here uses relative paths.
"""

import errno
import os
import resource
from typing import Dict, Iterator, List, Optional, Sequence

from . import libc, limits, shortage
from .protocol import OrderLimits

_NUL = "an argument, a variable or a path holds a NUL byte"


class SpawnError(Exception):
    """A job was not started; its text says why, for people."""


class NoRoomError(SpawnError):
    """The service is short of something, `what`: later it may go."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Spawner:
    """Starts processes from the state that clean_process made.

    Between `begin` and `end` lies one bunch: in it the process has the badness that its children are to inherit.
    """

    def __init__(self, *, environment: Dict[str, str], open_files: int) -> None:
        self._environment = environment
        self._encoded = _words([f"{name}={value}" for name, value in environment.items()])
        own = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._open_files = (open_files, own[1])
        self._posix_spawn = libc.PosixSpawn(open_files=self._open_files, own_open_files=own)
        self._badness = Badness()

    def begin(self) -> None:
        """Begins a bunch."""
        self._badness.raise_()

    def end(self) -> None:
        """Ends it."""
        self._badness.lower()
        os.chdir("/")  # so that no job's folder is kept busy

    def spawn(
        self,
        *,
        argv: Sequence[str],
        env: Dict[str, str],
        cwd: str,
        home: Optional[str],
        fds: Sequence[int],
        order_limits: OrderLimits,
    ) -> int:
        """The pid of the new process, leader of its own session; `fds` become its 0, 1 and 2. `home`: where it starts
        when it has no `cwd`; None: the home folder of all jobs.

        Raises:
            SpawnError: nothing was started.
            NoRoomError: nor was it the job that lacked something.
        """
        if not argv or not argv[0]:
            raise SpawnError("there is no program to run: the command is empty")
        arguments = _words(argv)
        own = self._encoded
        if not self._environment.keys().isdisjoint(env):
            own = _words([f"{name}={value}" for name, value in self._environment.items() if name not in env])
        environment = own + _words([f"{name}={value}" for name, value in env.items()])
        search = env.get("PATH", self._environment["PATH"])
        self._enter(cwd, home)
        denied = None
        for path in self._candidates(argv[0], search):
            try:
                if order_limits:
                    return limits.spawn(path, arguments, environment, fds, order_limits, open_files=self._open_files)
                return self._posix_spawn(_bytes(path), arguments, environment, fds)
            except limits.RefusedError as error:
                raise SpawnError(f"program cannot be executed with these limits: {path}: {error}") from error
            except OSError as error:
                what = shortage.kind(error)
                if what is not None:
                    raise NoRoomError(what) from error
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) or "/" in argv[0]:
                    raise SpawnError(_why(error, path)) from error
                # execvp(3) goes on with the rest of PATH, and remembers.
                denied = _why(error, path)
        raise SpawnError(denied or self._missing(argv[0], search))

    def _enter(self, cwd: str, home: Optional[str]) -> None:
        if not cwd:
            try:
                os.chdir(home or self._environment["HOME"])
            except OSError as error:
                what = shortage.kind(error)
                if what is not None:
                    raise NoRoomError(what) from error
                os.chdir("/")
            return
        if not cwd.startswith("/"):
            raise SpawnError(f"working directory is not an absolute path: {cwd}")
        try:
            _change_to(_bytes(cwd))
        except FileNotFoundError as error:
            raise SpawnError(f"working directory does not exist: {cwd}") from error
        except NotADirectoryError as error:
            raise SpawnError(f"working directory is not a directory: {cwd}") from error
        except PermissionError as error:
            raise SpawnError(f"working directory may not be entered: {cwd}") from error
        except OSError as error:
            what = shortage.kind(error)
            if what is not None:
                raise NoRoomError(what) from error
            raise SpawnError(f"working directory cannot be entered: {cwd}: {os.strerror(error.errno or 0)}") from error

    def _candidates(self, program: str, path: str) -> Iterator[str]:
        if "/" in program:
            yield program
            return
        for folder in path.split(":"):
            candidate = f"{folder or '.'}/{program}"
            # Cheaper than a vfork for each folder of PATH. The exec still has the last word.
            if os.access(candidate, os.X_OK):
                yield candidate

    def _missing(self, program: str, path: str) -> str:
        for folder in path.split(":"):
            if os.path.exists(f"{folder or '.'}/{program}"):
                return f"program may not be executed: {folder or '.'}/{program}"
        return f"program not found: {program}"


class Badness:
    """/proc/self/oom_score_adj: in want of memory the kernel is to kill a job, not the executor.

    The value is inherited by a child as it is at the fork (proc(5)), so it is raised around spawns. Raising needs no
    capability, nor does going back to where one was.
    """

    def __init__(self) -> None:
        self._fd = -1
        try:
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            own = int(os.pread(self._fd, 16, 0))
            self._own = b"%d" % own
            self._job = b"%d" % min(1000, own + 300)
            os.pwrite(self._fd, self._job, 0)
            os.pwrite(self._fd, self._own, 0)
        except OSError:
            self._drop()  # /proc is read-only, or may not be written: jobs are then as bad as the executor

    def raise_(self) -> None:
        """For the children to come."""
        self._write(self._job)

    def lower(self) -> None:
        """Back to the executor's own."""
        self._write(self._own)

    def _write(self, value: bytes) -> None:
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, value, 0)
            except OSError:
                pass  # for want of memory, say: better a job that is spared than an executor that ends

    def _drop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _change_to(path: bytes) -> None:
    """As chdir(2), but by no link of /proc/PID: these lead to what this process has open, and not the job."""
    try:
        fd = libc.open_folder(path)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        # Linux before 5.6, or a filter around us that does not know the call (EPERM, as older container engines say).
        if (os.path.realpath(path) + b"/").startswith(b"/proc/"):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        os.chdir(path)
        return
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)


def _words(texts: Sequence[str]) -> List[bytes]:
    # All at once: this is done for each job.
    words = "\0".join(texts).encode("utf-8", "surrogateescape").split(b"\0") if texts else []
    if len(words) != len(texts):
        raise SpawnError(_NUL)
    return words


def _bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise SpawnError(_NUL)
    return data


def _why(error: OSError, path: str) -> str:
    number = error.errno
    if number == errno.ENOENT and os.path.exists(path):
        return f"the interpreter of the program was not found: {path}"
    words = {
        errno.E2BIG: "an argument or the whole command is too large",
        errno.ENOENT: f"program not found: {path}",
        errno.ENOTDIR: f"program not found: {path}",
        errno.EACCES: f"program may not be executed: {path}",
        errno.ENOEXEC: f"program is in no executable format: {path}",
    }
    return words.get(number or 0) or f"program cannot be executed: {path}: {os.strerror(number or 0)}"
