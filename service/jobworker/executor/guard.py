"""The outer of the executor's two processes: it starts the inner one, passes signals on to it, and sees to it that no
job outlives it. It knows neither jobs nor the socket.
"""

import os
import signal
from typing import Callable, List, NamedTuple, Optional, Sequence

from . import isolation, libc, tree

NAMESPACES = "namespaces"
CONTAINER = "container"
NONE = "none"


class Isolation(NamedTuple):
    """What stands between the jobs and the machine."""

    kind: str
    detail: str


def choose(*, wanted: bool, hidden: Sequence[str]) -> Isolation:
    """Finds out what the machine allows. `wanted`: the operator did not forbid it."""
    detail = isolation.try_out(hidden) if wanted else "switched off"
    if not detail:
        return Isolation(NAMESPACES, "own pid and mount namespaces, no capabilities")
    if os.getpid() == 1:
        return Isolation(CONTAINER, f"PID 1 of a container; no namespaces of its own: {detail}")
    return Isolation(NONE, detail)


def run(inner: Callable[[Optional[int]], None], *, chosen: Isolation, hidden: Sequence[str], parent: int) -> int:
    """Runs the inner process, and returns the status to exit with. `inner` gets a descriptor that comes to its end when
    the guard dies. `parent`: whose end this process is to follow, as seen at its start."""
    if chosen.kind == CONTAINER:
        # The container's PID 1 needs no guard: with it everything dies.
        isolation.drop_privileges()
        inner(None)
        return 0
    # Without a pid namespace the orphans of a dead inner process must come here, and not to the machine's PID 1.
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    if chosen.kind == NAMESPACES:
        isolation.enter()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _become_inner(inner, chosen=chosen, hidden=hidden, lifeline=reading)
    os.close(reading)
    _follow(parent)
    return _Guard(child).run()


def _become_inner(
    inner: Callable[[Optional[int]], None], *, chosen: Isolation, hidden: Sequence[str], lifeline: int
) -> None:
    try:
        if chosen.kind == NAMESPACES:
            isolation.furnish(hidden)
        else:
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        isolation.drop_privileges()
        if chosen.kind == NAMESPACES:
            # After the credentials changed, which clears it. With PID 1 the kernel kills the whole namespace. Without
            # one the inner process must live to kill its jobs: it sees the end of the lifeline.
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        inner(lifeline)
    except BaseException:
        import traceback  # noqa: PLC0415  only here

        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def _follow(parent: int) -> None:
    # When the supervisor dies, so does the executor, in order.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # it died before the line above; the signal is blocked until `run`


class _Guard:
    def __init__(self, inner: int) -> None:
        self._inner = inner

    def run(self) -> int:
        """Waits for the inner process; signals are taken from the mask, so that none comes at a bad time."""
        wanted = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
        while True:
            # A blocked signal is pending until it is waited for: SIGCHLD of an exit that came before this is not lost.
            number = signal.sigwait(wanted)
            if number != signal.SIGCHLD:
                # Not reaped yet, so the pid is the inner one's.
                os.kill(self._inner, signal.SIGTERM)
                continue
            status = self._reap()
            if status is not None:
                kill_all()
                return status

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
