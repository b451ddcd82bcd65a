r"""Keeps two processes running, executor and server, until it is told to end them: in that order, so that the ends of
the jobs are recorded. Knows no configuration.

Both have sessions of their own, so that what a terminal sends comes to this process alone:

| from the terminal | what becomes of it |
|---|---|
| Ctrl-C (SIGINT; SIGTERM is the same) | the jobs are ended, INTERRUPTED, with their grace; then the server ends |
| Ctrl-C again, or Ctrl-\ (SIGQUIT) at any time | the same without grace: what is left of the jobs is killed |
| Ctrl-Z (SIGTSTP) | this process alone stops, and starts nothing again until `fg` or `bg`; all else goes on |
| it is closed (SIGHUP) | as Ctrl-C. SIGHUP from elsewhere, or under nohup(1), has the configuration read again |

Jobs live as long as this process does, so nothing that the machine is short of may end it. To start a process again it
needs no descriptor, and no memory to speak of (posix_spawn(3)); to learn of an end, neither (waitpid(2) at SIGCHLD).
What fails all the same is said once, and tried again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobworker import jobprocesses
from jobworker.relay import Relay
from jobworker.server.cli import EX_CONFIG
from jobworker.server.folders import FolderError

_FIRST_BACKOFF_SECONDS = 0.1
_LAST_BACKOFF_SECONDS = 1.0
# A child that ran for so long had started well; the next death begins with the first backoff again.
_STEADY_SECONDS = 5.0
# What the executor may take to end its jobs (5 s of grace, SIGKILL) and have the ends recorded.
_EXECUTOR_STOP_SECONDS = 15.0
_SERVER_STOP_SECONDS = 20.0
# Ctrl-C is another one after so long: a wrapper that passes on what the terminal has sent to us as well is quicker.
_AGAIN_SECONDS = 0.5
# Where there is no memory even to wait.
_BREATH_SECONDS = 0.1
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)


@dataclass
class Child:
    """A process that is started again when it ends."""

    name: str
    command: Callable[[], Sequence[str]]
    inherited: Sequence[int]  # descriptors
    blocked: frozenset[signal.Signals] = frozenset()  # signals that it starts with blocked
    pid: int = 0  # 0: it does not run
    starts: int = 0
    started_at: float = 0.0
    backoff_seconds: float = _FIRST_BACKOFF_SECONDS
    due_at: float | None = field(default=0.0)  # None: it runs
    failing: bool = False

    def start(self, now: float, *, stdin: int, output: int) -> None:
        """
        Raises:
            OSError, FolderError, MemoryError: it does not run; it is due again later.
        """
        self._due_later(now)
        command = list(self.command())
        self.pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                # Onto itself: it is not closed at the exec (posix_spawn_file_actions_adddup2(3)).
                *[(os.POSIX_SPAWN_DUP2, fd, fd) for fd in self.inherited],
            ],
            setsid=True,
            setsigmask=self.blocked,
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
        self.starts += 1
        self.started_at, self.due_at = now, None

    def reap(self, now: float) -> int | None:
        """Its exit status, or the number of the signal that ended it, negative; None: it has not ended."""
        if not self.pid:
            return None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # it is nobody's child any more: how it ended, nobody knows
            pid, status = self.pid, 0
        if not pid:
            return None
        self.pid = 0
        if now - self.started_at >= _STEADY_SECONDS:
            self.backoff_seconds = _FIRST_BACKOFF_SECONDS
        self._due_later(now)
        return os.waitstatus_to_exitcode(status)

    def _due_later(self, now: float) -> None:
        self.due_at = now + self.backoff_seconds
        self.backoff_seconds = min(2 * self.backoff_seconds, _LAST_BACKOFF_SECONDS)

    def signal(self, number: int) -> None:
        """One that is not reaped yet has its pid still."""
        if self.pid:
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)


class _Signals:
    """Signals in the order in which they came, and a sleep that they end."""

    def __init__(self) -> None:
        self.came: deque[tuple[int, float]] = deque()
        # nohup(1) has it ignored.
        self.outlives_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, self._note)
        # In the background of a terminal with `stty tostop`, a line of ours is not to stop us.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)  # whoever started us may have had them blocked

    def _note(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self.came.append((number, time.monotonic()))

    def sleep(self, seconds: float | None) -> None:
        """Until one comes; it may have come before."""
        try:
            self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000)
            while os.read(self._wake, 512):
                pass
        except BlockingIOError:
            pass
        except (OSError, MemoryError):
            time.sleep(_BREATH_SECONDS)


class Supervision:
    """`run`, once."""

    def __init__(self, executor: Child, server: Child, *, gone: Callable[[], None], relay: Relay) -> None:
        """`gone` is called when the executor has died. Into `relay` go all lines, the children's too."""
        self._gone = gone
        self._executor = executor
        self._server = server
        self._relay = relay
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._signals = _Signals()
        self._has_terminal = not self._signals.outlives_terminal and _has_terminal()
        self._told_at: float | None = None
        self._hurry = False
        self._refused = False

    def run(self) -> int:
        """Children run until a signal comes, or one refuses to start at all. Returns the exit status."""
        children = (self._executor, self._server)
        while self._told_at is None and not self._refused:
            self._start_due(*children)
            self._signals.sleep(self._until_due(*children))
            self._reap()
            self._hear()
        if self._told_at is not None:
            self._say_stopping()
        # The executor first: its jobs' ends are then recorded, by a server that is started again if need be.
        self._end(self._executor, _EXECUTOR_STOP_SECONDS, hurry=self._kill_jobs, meanwhile=[self._server])
        self._end(self._server, _SERVER_STOP_SECONDS, hurry=lambda: self._server.signal(signal.SIGKILL))
        return EX_CONFIG if self._refused else 0

    # -- a round

    def _start_due(self, *children: Child) -> None:
        now = time.monotonic()
        for child in children:
            if child.due_at is None or child.due_at > now:
                continue
            try:
                child.start(now, stdin=self._null, output=self._relay.fd)
            except (OSError, FolderError, MemoryError) as e:
                if not child.failing:
                    child.failing = True
                    why = (isinstance(e, OSError) and e.strerror) or str(e) or type(e).__name__
                    self._relay.say(f"the {child.name} cannot be started, and is tried again: {why}")
            else:
                if child.failing:
                    child.failing = False
                    self._relay.say(f"the {child.name} is started again")

    def _until_due(self, *children: Child) -> float | None:
        due = [child.due_at for child in children if child.due_at is not None]
        return min(due) - time.monotonic() if due else None

    def _reap(self) -> None:
        for child in (self._executor, self._server):
            first = child.starts == 1
            status = child.reap(time.monotonic())
            if status is None:
                continue
            if child is self._executor:
                self._gone()
            if self._told_at is None:
                how = f"signal {-status}" if status < 0 else f"status {status}"
                self._relay.say(f"the {child.name} ended with {how}")
            self._refused = self._refused or (first and status == EX_CONFIG)

    def _hear(self) -> None:
        while self._signals.came:
            number, at = self._signals.came.popleft()
            if number == signal.SIGHUP and not (self._has_terminal and not _has_terminal()):
                self._server.signal(number)
            elif number == signal.SIGQUIT:
                self._told_at, self._hurry = self._told_at or at, True
            elif self._told_at is None:
                self._told_at = at
            elif number == signal.SIGINT and at - self._told_at >= _AGAIN_SECONDS:
                self._hurry = True

    # -- the end

    def _say_stopping(self) -> None:
        with contextlib.suppress(OSError):
            jobs = jobprocesses.count(self._executor.pid) if self._executor.pid else 0
            if not jobs:
                self._relay.say("stopping")
                return
            are = "1 job is" if jobs == 1 else f"{jobs} jobs are"
            again = "; press Ctrl-C again to kill what is left" if self._has_terminal and not self._hurry else ""
            self._relay.say(f"stopping; {are} being ended (up to {_EXECUTOR_STOP_SECONDS:.0f} s{again})")

    def _end(self, child: Child, seconds: float, *, hurry: Callable[[], None], meanwhile: Sequence[Child] = ()) -> None:
        """SIGTERM, and SIGKILL when its time is up; `meanwhile` others are kept running."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            child.signal(number)
            deadline = time.monotonic() + seconds
            while child.pid and (left := deadline - time.monotonic()) > 0:
                if self._hurry:
                    self._hurry = False
                    hurry()
                self._start_due(*meanwhile)
                due = self._until_due(*meanwhile)
                self._signals.sleep(left if due is None else min(left, due))
                self._reap()
                self._hear()

    def _kill_jobs(self) -> None:
        with contextlib.suppress(OSError):
            jobprocesses.kill(self._executor.pid)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal; after a hangup it has none any more (tty_ioctl(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
