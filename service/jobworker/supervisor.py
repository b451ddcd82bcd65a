"""`jobworker run`: makes the PKI if there is none, starts executor and server, and starts again what died.

It holds the socketpair between the two over their deaths, so that a new server finds what the executor had to say, and
jobs never notice. Lifetimes nest: when this process dies, the kernel ends the executor with it (PR_SET_PDEATHSIG).
Imports nothing of the server's: it is to outlive it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from jobpki import directory
from jobpki.errors import PkiError
from jobpki.layout import ROOT_MODE
from jobpki.publish import make_folders
from jobworker.executor import bundle, protocol
from jobworker.heldports import PortError, hold_ports, listeners
from jobworker.server.cli import EX_CONFIG
from jobworker.server.config.model import Settings
from jobworker.server.config.sources import ConfigError, load
from jobworker.server.folders import SERVER_FOLDERS, FolderError, Folders

_FIRST_BACKOFF_SECONDS = 0.1
_LAST_BACKOFF_SECONDS = 1.0
# A child that ran for so long had started well; the next death begins with the first backoff again.
_STEADY_SECONDS = 5.0
# In the run folder: what the configuration file held when it was last good, see LiveConfig.
KEPT_CONFIG = "config.toml"
# What the executor may take to end its jobs (5 s of grace, SIGKILL) and have the ends recorded.
_EXECUTOR_STOP_SECONDS = 15.0
_SERVER_STOP_SECONDS = 20.0


def run(*, config_file: Path | None, allow_root_jobs: bool) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status. `allow_root_jobs`: of a service that is root's."""
    with ExitStack() as held:
        folders = held.enter_context(closing(Folders()))
        try:
            settings = load(config_file, os.environ).settings
            _prepare(settings, folders)
            held.enter_context(hold_ports(settings))
        except (ConfigError, FolderError, PkiError, PortError, OSError) as e:
            print(f"jobworker: {folders.shown(str(e))}", file=sys.stderr)
            return EX_CONFIG
        # In memory, and sealed: no job, and nobody else, can put another program in its place.
        program = bundle.build_sealed()
        held.callback(os.close, program)
        for_server, for_executor = map(held.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))

        def executor_command() -> list[str]:
            return _executor_command(settings, folders, program, for_executor.fileno(), allow_root_jobs=allow_root_jobs)

        executor = _Child("executor", executor_command, (program, for_executor.fileno()))
        command = _server_command(config_file, folders, for_server.fileno())
        inherited = (for_server.fileno(), *folders.descriptors(*SERVER_FOLDERS).values())
        server = _Child("server", lambda: command, inherited, blocked=frozenset({signal.SIGHUP}))
        return _Supervisor(executor, server, gone=lambda: _tell_gone(for_executor)).run()


def _prepare(settings: Settings, folders: Folders) -> None:
    """Opens the folders, for the whole life of the service, and completes the PKI."""
    make_folders(settings.paths.pki, mode=ROOT_MODE)
    folders.hold_server(dict(settings.paths))
    folders.hold("work", settings.paths.work)
    made = directory.initialise(folders.path("pki"), now=datetime.now(UTC))
    for user, password in made.passwords.items():
        print(f"jobworker: made user {user}, password: {password}", flush=True)
    # Of an earlier life of the service, whose configuration counts no more.
    (folders.path("run") / KEPT_CONFIG).unlink(missing_ok=True)


def _tell_gone(for_executor: socket.socket) -> None:
    """In the executor's place: the socket stays open over its death, so the server would not notice."""
    try:
        protocol.Connection(for_executor).send({"m": "stopping"})
    except OSError:
        return  # there is no server either; the next one begins with a question


def _executor_command(
    settings: Settings, folders: Folders, program: int, fd: int, *, allow_root_jobs: bool
) -> list[str]:
    """With the names that the folders have now: jobs see their work folders by name, and so must the executor."""
    jobs = settings.jobs
    command = [sys.executable, "-I", "-S", f"/proc/self/fd/{program}", "--fd", str(fd)]
    command += ["--isolate", jobs.isolation, "--work", folders.place("work")]
    for option, value in (("--path", jobs.path), ("--user", jobs.user), ("--processes", jobs.processes)):
        if value is not None:
            command += [option, str(value)]
    for option, paths_of in (("--readable", jobs.readable), ("--writable", jobs.writable)):
        for path in paths_of:
            command += [option, str(path)]
    for key in SERVER_FOLDERS:
        command += ["--hide", folders.place(key)]
    for _, _, port in listeners(settings):
        command += ["--closed-port", str(port)]
    if allow_root_jobs:
        command += ["--allow-root-jobs"]
    return command


def _server_command(config_file: Path | None, folders: Folders, fd: int) -> list[str]:
    # -P: the working directory, which may be anybody's to write, is no place to import from.
    command = [sys.executable, "-P", "-m", "jobworker.server.cli", "server", "--executor-fd", str(fd), "--shared-ports"]
    command += ["--folder-fds", ",".join(f"{key}={held}" for key, held in folders.descriptors(*SERVER_FOLDERS).items())]
    if config_file is not None:
        command += ["--config", str(config_file), "--kept-config", str(folders.path("run") / KEPT_CONFIG)]
    return command


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal; after a hangup it has none any more (tty_ioctl(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@dataclass
class _Child:
    """A process that is started again when it dies."""

    name: str
    command: Callable[[], Sequence[str]]
    inherited: Sequence[int]  # descriptors
    blocked: frozenset[signal.Signals] = frozenset()  # signals that it starts with blocked
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    starts: int = 0
    started_at: float = 0.0
    backoff_seconds: float = _FIRST_BACKOFF_SECONDS
    due_at: float | None = field(default=0.0)  # None: it runs, or is not to

    def start(self, now: float) -> None:
        # The server must not be ended by the SIGHUP that it is to read its configuration at: it starts with it blocked,
        # and takes it when it is ready.
        was = signal.pthread_sigmask(signal.SIG_BLOCK, self.blocked)
        try:
            self.process = subprocess.Popen(self.command(), pass_fds=self.inherited, stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, was)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.starts += 1
        self.started_at, self.due_at = now, None

    def ended(self, now: float) -> int:
        """Reaps it; returns its status as Popen has it."""
        assert self.process is not None  # noqa: S101  (only called for one that runs)
        status = self.process.wait()
        os.close(self.pidfd)
        self.process, self.pidfd = None, -1
        if now - self.started_at >= _STEADY_SECONDS:
            self.backoff_seconds = _FIRST_BACKOFF_SECONDS
        self.due_at = now + self.backoff_seconds
        self.backoff_seconds = min(2 * self.backoff_seconds, _LAST_BACKOFF_SECONDS)
        return status

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class _Supervisor:
    def __init__(self, executor: _Child, server: _Child, *, gone: Callable[[], None]) -> None:
        """`gone` is called when the executor has died."""
        self._gone = gone
        self._executor = executor
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._told: int | None = None
        self._has_terminal = _has_terminal()
        self._refused = False

    def run(self) -> int:
        """Children run until a signal comes, or the server refuses to start at all."""
        wake_out, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_in)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)
        signal.signal(signal.SIGHUP, self._hang_up)
        self._selector.register(wake_out, selectors.EVENT_READ, None)
        while self._told is None and not self._refused:
            self._start_due()
            self._wait(wake_out, self._next_due())
        self._stop(wake_out)
        return EX_CONFIG if self._refused else 0

    def _tell(self, number: int, _frame: object) -> None:
        self._told = number

    def _hang_up(self, number: int, _frame: object) -> None:
        """The configuration is to be read again; or the terminal is gone, and with it whoever would press Ctrl-C."""
        if self._has_terminal and not _has_terminal():
            self._told = number
        else:
            self._server.signal(number)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in (self._executor, self._server):
            if child.due_at is not None and child.due_at <= now:
                child.start(now)
                self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _next_due(self) -> float | None:
        due = [c.due_at for c in (self._executor, self._server) if c.due_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _wait(self, wake_fd: int, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                os.read(wake_fd, 512)
                continue
            child: _Child = key.data
            self._selector.unregister(key.fd)
            first = child.starts == 1
            status = child.ended(time.monotonic())
            if child is self._executor:
                self._gone()
            if self._told is None:
                how = f"signal {-status}" if status < 0 else f"status {status}"
                print(f"jobworker: the {child.name} ended with {how}", file=sys.stderr, flush=True)
            self._refused = self._refused or (first and status == EX_CONFIG)

    def _stop(self, wake_fd: int) -> None:
        """The executor first: its jobs' ends are then recorded by a server that still runs."""
        for child, seconds in ((self._executor, _EXECUTOR_STOP_SECONDS), (self._server, _SERVER_STOP_SECONDS)):
            for number in (signal.SIGTERM, signal.SIGKILL):
                child.signal(number)
                deadline = time.monotonic() + seconds
                while child.process is not None and (left := deadline - time.monotonic()) > 0:
                    self._wait(wake_fd, left)
