"""Signals to everything of a job. Who else is of the job than what hangs below its first process, Orphans tells."""

import os
import signal
from typing import List

from . import tree
from .job import Job
from .orphans import Orphans


class Signals:
    """A first process that was not reaped keeps its pid, and so the name of its group; every other process is signalled
    by a pidfd, after a look that it is still the one that was meant.
    """

    def __init__(self, *, orphans: Orphans) -> None:
        self._orphans = orphans

    def terminate(self, job: Job) -> None:
        """SIGTERM, once to each, and SIGCONT, without which a stopped process would not see it."""
        first = not job.signalled
        if first:
            self._group(job, signal.SIGTERM)
        for process in self._family(job):
            key = (process.pid, process.start)
            if key in job.signalled:
                continue
            job.signalled.add(key)
            if not first or process.pgrp != job.pid:
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)
        job.signalled.add((job.pid, 0))
        if first:
            self._group(job, signal.SIGCONT)

    def kill(self, job: Job) -> None:
        """SIGKILL to each that is there now. What was being forked meanwhile takes another call."""
        job.killed = True
        family = self._family(job)
        self._group(job, signal.SIGKILL)
        for process in family:
            send(process, signal.SIGKILL)

    def _family(self, job: Job) -> List[tree.Stat]:
        # A first process that is a zombie has lost its children to us: they are orphans.
        pids = [] if job.exited else tree.descendants(job.pid)
        for pid in self._orphans.of(job):
            pids.append(pid)
            pids += tree.descendants(pid)
        family = [process for process in map(tree.stat, pids) if process is not None]
        self._orphans.relate(job, family)
        return family

    def _group(self, job: Job, number: int) -> None:
        try:
            os.killpg(job.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # the group is empty, or it is all set-uid programs of another user


def send(process: tree.Stat, number: int) -> None:
    """A signal to exactly this process, if it still is."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = tree.stat(process.pid)
        if now is not None and now.start == process.start:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(pidfd)
