"""The jobs' processes as the supervisor sees them from outside, in /proc: how many jobs run, and an end to all at once.
It needs no word with the executor, which finds its jobs ended, and tells how.
"""

from __future__ import annotations

import contextlib
import os
import signal

from jobworker.executor import tree


def count(executor: int) -> int:
    """How many jobs run below this process; 0 also where the kernel does not list children by thread.

    The first process of a job is a child of the thread that starts jobs; orphans are the leader's (see `tree.Adopted`).
    """
    found = 0
    for inner in _inner(executor, tree.descendants(executor)):
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{inner}/task"):
                if thread != str(inner):
                    found += len(tree.read(f"/proc/{inner}/task/{thread}/children").split())
    return found


def kill(executor: int) -> None:
    """Kills every process of every job below this process. What is being forked meanwhile takes another call."""
    below = tree.descendants(executor)
    own = _inner(executor, below)
    known = frozenset(below)
    for pid in below:
        if pid not in own:
            with contextlib.suppress(OSError):
                _kill(pid, known)


def _inner(executor: int, below: list[int]) -> frozenset[int]:
    """The executor is two processes, and the jobs are below the inner one (executor/init.py)."""
    return frozenset(pid for pid in below if (line := tree.stat(pid)) is not None and line.ppid == executor)


def _kill(pid: int, known: frozenset[int]) -> None:
    fd = os.pidfd_open(pid)
    try:
        line = tree.stat(pid)
        # The descriptor may be another's, who was given the pid since; a job's parent is one of ours.
        if line is not None and line.ppid in known:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)
