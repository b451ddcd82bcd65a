"""The outer of the executor's two processes: it starts the inner one, passes signals on to it, and sees to it that no
job outlives it. It knows neither jobs nor the socket.
"""

import os
import signal
import traceback
from typing import Callable, List, NamedTuple, Optional

from . import isolation, landlock, libc, tree

NAMESPACES = "namespaces"
CONTAINER = "container"
LANDLOCK = "landlock"
NONE = "none"


class Isolation(NamedTuple):
    """What stands between the jobs and the machine."""

    kind: str
    detail: str


class RefusedError(Exception):
    """The executor must not start like this; its text says why, and what to do."""


class Wishes(NamedTuple):
    """What the operator asked for."""

    isolate: bool  # False: no isolation at all is asked for
    setting: isolation.Setting
    processes: Optional[int]  # of all jobs together


def choose(wishes: Wishes) -> Isolation:
    """Finds out what the machine allows.

    Raises:
        RefusedError: it allows nothing, and nobody asked for that.
    """
    user, uids = wishes.setting.user, wishes.setting.uids
    if uids is not None and (user is None or (detail := isolation.try_user(user, uids))):
        why = detail if user is not None else "it is not started by root, or with --allow-root-jobs"
        raise RefusedError(
            f"jobs of different users cannot run as user ids {uids}: {why}. It takes root with the capabilities "
            "CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL, SETGID, SETUID and SYS_PTRACE; or do without: "
            'jobs.uids = "none", no --uids'
        )
    if user is not None and (detail := isolation.try_user(user)):
        raise RefusedError(
            f"jobs of root are refused, and this process may not become user {user.uid}: {detail}. Start it as a user "
            "of its own, or allow jobs of root with --allow-root-jobs"
        )
    if not wishes.isolate:
        _check_work(wishes.setting)
        return Isolation(NONE, "switched off")
    detail = isolation.try_out(wishes.setting)
    if not detail:
        return Isolation(NAMESPACES, "own pid, mount and IPC namespaces, a root of its own, no capabilities")
    _check_work(wishes.setting)
    if os.getpid() == 1:
        return Isolation(CONTAINER, f"PID 1 of a container; no namespaces of its own: {detail}")
    if landlock.can_restrict_files():
        return Isolation(LANDLOCK, f"Landlock alone (version {landlock.version()}); no namespaces: {detail}")
    raise RefusedError(
        f"nothing can keep jobs from the service's files here: no namespaces ({detail}), and no Landlock. Run it in a "
        'container or on another kernel, or do without: jobs.isolation = "none", --isolate none'
    )


def _check_work(setting: isolation.Setting) -> None:
    """Without a root of their own, jobs must get to their work folders by the machine's."""
    if setting.view.work is not None and setting.user is not None:
        user = setting.user if setting.uids is None else isolation.User(setting.uids.first, setting.uids.first)
        detail = isolation.try_folder(setting.view.work, user)
        if detail:
            raise RefusedError(f"jobs run as user {user.uid}, who cannot use the work folders: {detail}")


def run(inner: Callable[[Optional[int]], None], *, chosen: Isolation, wishes: Wishes, parent: int) -> int:
    """Runs the inner process, and returns the status to exit with. `inner` gets a descriptor that becomes readable when
    it is to stop, and comes to its end when init dies. `parent`: whose end this process is to follow, as seen at
    its start."""
    if chosen.kind == CONTAINER:
        # The container's PID 1 needs no init of ours: with it everything dies.
        isolation.drop_privileges(wishes.setting.user, uids=wishes.setting.uids)
        inner(None)
        return 0
    # Without a pid namespace the orphans of a dead inner process must come here, and not to the machine's PID 1.
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    if chosen.kind == NAMESPACES:
        isolation.enter(wishes.processes)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _become_inner(inner, chosen=chosen, setting=wishes.setting, lifeline=reading)
    os.close(reading)
    _follow(parent)
    os.set_blocking(writing, False)
    return _Guard(child, writing).run()


def _become_inner(
    inner: Callable[[Optional[int]], None], *, chosen: Isolation, setting: isolation.Setting, lifeline: int
) -> None:
    try:
        if chosen.kind == NAMESPACES:
            isolation.furnish(setting)
        else:
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
            isolation.drop_privileges(setting.user, uids=setting.uids)
        if chosen.kind == NAMESPACES:
            # After the credentials changed, which clears it. With PID 1 the kernel kills the whole namespace. Without
            # one the inner process must live to kill its jobs: it sees the end of the lifeline.
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        inner(lifeline)
    except BaseException:
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def _follow(parent: int) -> None:
    # When the supervisor dies, so does the executor, in order.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # it died before the line above; the signal is blocked until `run`


class _Guard:
    def __init__(self, inner: int, lifeline: int) -> None:
        self._inner = inner
        self._lifeline = lifeline

    def run(self) -> int:
        """Waits for the inner process; signals are taken from the mask, so that none comes at a bad time."""
        wanted = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
        while True:
            # A blocked signal is pending until it is waited for: SIGCHLD of an exit that came before this is not lost.
            number = signal.sigwait(wanted)
            if number != signal.SIGCHLD:
                self._stop_inner()
                continue
            status = self._reap()
            if status is not None:
                kill_all()
                return status

    def _stop_inner(self) -> None:
        # By no signal: jobs may signal the inner process as well, and of a signal that is pending already the kernel
        # drops the next one, whoever sends it: signal(7).
        try:
            os.write(self._lifeline, b".")
        except BlockingIOError:
            pass  # it was told many times, and has not looked yet
        except BrokenPipeError:
            pass  # it has just ended

    def _reap(self) -> Optional[int]:
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._inner:
                found = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def kill_all() -> None:
    """Kills every process below this one, and reaps until none is left."""
    own = os.getpid()
    while True:
        left: List[int] = tree.descendants(own)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        try:
            # Each death makes its children ours.
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
