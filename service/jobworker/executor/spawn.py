"""Starts first processes of jobs: finds the program, opens the folder, and says precisely what failed."""

import errno
import os
import resource
from functools import partial
from typing import Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence

from . import libc, limits, shortage
from .identity import Identity
from .oomscore import OomScoreAdj
from .protocol import OrderLimits
from .spawners import Spawners
from .startflags import StartFlags

_NUL = "an argument, a variable or a path holds a NUL byte"


class SpawnError(Exception):
    """A job was not started; its text says why, for people."""


class NoRoomError(SpawnError):
    """The service is short of something, `what`: later it may go."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Spawn:
    """One process to start, and what came of it: `pid`, or `error`."""

    __slots__ = (
        "arguments",
        "assumed",
        "began",
        "candidates",
        "denied",
        "environment",
        "error",
        "fds",
        "flag",
        "flags",
        "folder",
        "limits",
        "owns_folder",
        "path",
        "pid",
        "prepared",
        "program",
        "refusal",
        "search",
        "started_at",
        "started_ns",
        "times",
    )

    def __init__(
        self,
        *,
        fds: Sequence[int],
        limits: OrderLimits,
        times: "Times",
        flags: StartFlags,
        flag: Optional[int],
        assumed: "Callable[[], ContextManager[None]]",
    ) -> None:
        self.assumed = assumed  # within, the calling thread is whom it runs as
        self.fds = fds
        self.flags = flags
        self.flag = flag
        self.limits = limits
        self.times = times
        self.arguments: List[bytes] = []
        self.environment: List[bytes] = []
        self.program = ""
        self.search = ""
        self.candidates: Iterator[str] = iter(())
        self.path: Optional[str] = None  # the candidate that is tried
        self.folder: Optional[int] = None  # where it starts; None: where this process is
        self.owns_folder = False
        self.prepared: Optional[libc.PreparedSpawn] = None
        self.refusal: Optional[OSError] = None  # the kernel's, of this candidate
        self.denied: Optional[str] = None  # why an earlier one was not it
        self.pid = -1
        self.error: Optional[SpawnError] = None
        self.began = self.started_at = 0.0
        self.started_ns = 0

    def make(self) -> None:
        """In any thread, once it is prepared."""
        assert self.prepared is not None  # noqa: S101
        clock, time_ns = self.times
        self.began = clock()
        try:
            with self.assumed():
                self.flags.set(self.flag)
                self.pid = self.prepared.run()
        except OSError as error:
            self.refusal = error
        self.started_ns, self.started_at = time_ns(), clock()


class Times(NamedTuple):
    """Both clocks: the one that never jumps, and that of the day."""

    clock: Callable[[], float]
    time_ns: Callable[[], int]


class Spawner:
    """Starts processes from the state that clean_process made, a bunch at a time. The thread that does so sets
    `spawners`."""

    spawners: Spawners

    def __init__(
        self, *, environment: Dict[str, str], open_files: int, times: Times, flags: StartFlags, identities: Identity
    ) -> None:
        self._identities = identities
        self._environment = environment
        self._encoded = _words([f"{name}={value}" for name, value in environment.items()])
        own = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._open_files = (open_files, own[1])
        self._own_open_files = own
        self._posix_spawn = libc.PosixSpawn()
        self._times = times
        self._flags = flags
        self._oom_score_adj = OomScoreAdj()
        self._homes: Dict[str, Optional[int]] = {}  # open folders, of one bunch

    def prepare(
        self,
        *,
        argv: Sequence[str],
        env: Dict[str, str],
        cwd: str,
        home: Optional[str],
        fds: Sequence[int],
        order_limits: OrderLimits,
        flag: Optional[int] = None,
        uid: Optional[int] = None,
    ) -> Spawn:
        """One for the next `run`, which closes what is opened here: it will lead its own session; `fds` become its 0, 1
        and 2. `home`: where it starts when it has no `cwd`; None: the home folder of all jobs. `flag`: the one to set
        when it is about to be started. `uid`: whom it runs as; None: this process's own user.

        Raises:
            SpawnError: it cannot be started.
            NoRoomError: nor is it the job that lacks something.
        """
        if not argv or not argv[0]:
            raise SpawnError("there is no program to run: the command is empty")
        spawn = Spawn(
            fds=fds,
            limits=order_limits,
            times=self._times,
            flags=self._flags,
            flag=flag,
            assumed=partial(self._identities.assumed, uid),
        )
        spawn.arguments = _words(argv)
        own = self._encoded
        if not self._environment.keys().isdisjoint(env):
            own = _words([f"{name}={value}" for name, value in self._environment.items() if name not in env])
        spawn.environment = own + _words([f"{name}={value}" for name, value in env.items()])
        spawn.program, spawn.search = argv[0], env.get("PATH", self._environment["PATH"])
        try:
            with spawn.assumed():
                if cwd:
                    spawn.folder = _open_cwd(cwd)
                    spawn.owns_folder = True
                else:
                    spawn.folder = self._open_home(home or self._environment["HOME"])
                spawn.candidates = _candidates(spawn.program, spawn.search, spawn.folder)
                self._next_candidate(spawn)
        except BaseException:
            _close(spawn)
            raise
        return spawn

    def run(self, spawns: Sequence[Spawn]) -> None:
        """Starts them, the first ones first, and meanwhile has the oom_score_adj that they are to inherit."""
        self._oom_score_adj.raise_()
        try:
            self._run_prepared([spawn for spawn in spawns if spawn.prepared is not None])
            for spawn in spawns:
                if spawn.limits or spawn.refusal is not None:
                    with spawn.assumed():
                        self._run_to_the_end(spawn)
        finally:
            self._oom_score_adj.lower()
            for spawn in spawns:
                _close(spawn)
            self.forget()

    def forget(self) -> None:
        """The bunch is over."""
        for fd in self._homes.values():
            if fd is not None:
                os.close(fd)
        self._homes = {}

    def _run_prepared(self, spawns: Sequence[Spawn]) -> None:
        if not spawns:
            return
        # In none of these calls does this process open anything.
        resource.setrlimit(resource.RLIMIT_NOFILE, self._open_files)
        try:
            if self._posix_spawn.has_folders:
                self.spawners.run(spawns)
            else:
                for spawn in spawns:
                    _enter(spawn.folder)
                    spawn.make()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._own_open_files)
            if not self._posix_spawn.has_folders:
                os.chdir("/")  # so that no job's folder is kept busy

    def _run_to_the_end(self, spawn: Spawn) -> None:
        """What the first candidate did not do, and what takes a fork."""
        try:
            if spawn.limits:
                self._fork(spawn)
            while spawn.refusal is not None:
                self._judge(spawn, spawn.refusal)
                spawn.refusal = None
                self._next_candidate(spawn)
                if spawn.limits:
                    self._fork(spawn)
                else:
                    self._run_prepared([spawn])
        except SpawnError as error:
            spawn.error = error

    def _fork(self, spawn: Spawn) -> None:
        assert spawn.path is not None  # noqa: S101
        spawn.began = self._times.clock()
        try:
            self._flags.set(spawn.flag)
            spawn.pid = limits.spawn(
                spawn.path,
                spawn.arguments,
                spawn.environment,
                spawn.fds,
                spawn.limits,
                open_files=self._open_files,
                folder=spawn.folder,
            )
        except limits.RefusedError as error:
            raise SpawnError(f"program cannot be executed with these limits: {spawn.path}: {error}") from error
        except OSError as error:
            spawn.refusal = error
        spawn.started_ns, spawn.started_at = self._times.time_ns(), self._times.clock()

    def _judge(self, spawn: Spawn, error: OSError) -> None:
        """Returns where another candidate may do: execvp(3) goes on with the rest of PATH, and remembers."""
        assert spawn.path is not None  # noqa: S101
        what = shortage.kind(error)
        if what is not None:
            raise NoRoomError(what) from error
        spawn.denied = _why(error, spawn.path, spawn.folder)
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) or "/" in spawn.program:
            raise SpawnError(spawn.denied) from error

    def _next_candidate(self, spawn: Spawn) -> None:
        if spawn.prepared is not None:
            spawn.prepared.close()
            spawn.prepared = None
        spawn.path = next(spawn.candidates, None)
        if spawn.path is None:
            raise SpawnError(spawn.denied or _missing(spawn.program, spawn.search, spawn.folder))
        if spawn.limits:
            return
        try:
            spawn.prepared = self._posix_spawn.prepare(
                _bytes(spawn.path), spawn.arguments, spawn.environment, spawn.fds, spawn.folder
            )
        except OSError as error:
            raise NoRoomError(shortage.kind(error) or shortage.DESCRIPTORS) from error

    def _open_home(self, path: str) -> Optional[int]:
        if path not in self._homes:
            self._homes[path] = _open_or_none(path)
        return self._homes[path]


def _open_or_none(path: str) -> Optional[int]:
    """A folder; None: it cannot be entered, and a job starts in the root."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        what = shortage.kind(error)
        if what is not None:
            raise NoRoomError(what) from error
        return None
    if os.access(".", os.X_OK, dir_fd=fd):
        return fd
    os.close(fd)
    return None


def _open_cwd(path: str) -> int:
    if not path.startswith("/"):
        raise SpawnError(f"working directory is not an absolute path: {path}")
    try:
        fd = _open_folder(_bytes(path))
        if not os.access(".", os.X_OK, dir_fd=fd):
            os.close(fd)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError as error:
        raise SpawnError(f"working directory does not exist: {path}") from error
    except NotADirectoryError as error:
        raise SpawnError(f"working directory is not a directory: {path}") from error
    except PermissionError as error:
        raise SpawnError(f"working directory may not be entered: {path}") from error
    except OSError as error:
        what = shortage.kind(error)
        if what is not None:
            raise NoRoomError(what) from error
        raise SpawnError(f"working directory cannot be entered: {path}: {os.strerror(error.errno or 0)}") from error
    return fd


def _enter(folder: Optional[int]) -> None:
    if folder is None:
        os.chdir("/")
    else:
        os.fchdir(folder)


def _close(spawn: Spawn) -> None:
    if spawn.prepared is not None:
        spawn.prepared.close()
        spawn.prepared = None
    if spawn.owns_folder and spawn.folder is not None:
        os.close(spawn.folder)
        spawn.folder = None


def _candidates(program: str, search: str, folder: Optional[int]) -> Iterator[str]:
    if "/" in program:
        yield program
        return
    for place in search.split(":"):
        candidate = f"{place or '.'}/{program}"
        # Cheaper than a vfork for each folder of PATH. The exec still has the last word.
        if os.access(candidate, os.X_OK, dir_fd=folder):
            yield candidate


def _missing(program: str, search: str, folder: Optional[int]) -> str:
    for place in search.split(":"):
        if os.access(f"{place or '.'}/{program}", os.F_OK, dir_fd=folder):
            return f"program may not be executed: {place or '.'}/{program}"
    return f"program not found: {program}"


def _open_folder(path: bytes) -> int:
    """A descriptor (O_PATH), by no link of /proc/PID: these lead to what this process has open, and not the job."""
    try:
        return libc.open_folder(path)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    # Linux before 5.6, or a filter around us that does not know the call (EPERM, as older container engines say).
    if (os.path.realpath(path) + b"/").startswith(b"/proc/"):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


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


def _why(error: OSError, path: str, folder: Optional[int]) -> str:
    number = error.errno
    if number == errno.ENOENT and os.access(path, os.F_OK, dir_fd=folder):
        return f"the interpreter of the program was not found: {path}"
    words = {
        errno.E2BIG: "an argument or the whole command is too large",
        errno.ENOENT: f"program not found: {path}",
        errno.ENOTDIR: f"program not found: {path}",
        errno.EACCES: f"program may not be executed: {path}",
        errno.ENOEXEC: f"program is in no executable format: {path}",
    }
    return words.get(number or 0) or f"program cannot be executed: {path}: {os.strerror(number or 0)}"
