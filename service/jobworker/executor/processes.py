"""Ends the job that holds most processes before there is no room for another: a fork bomb is one job's end, and not
that of every other's. It knows no messages: whom to end is told to the reaper.
"""

import os
import resource
import threading
from typing import Callable, Dict, Iterator, Optional

from . import tree
from .census import census
from .job import Job
from .orphans import Orphans
from .timers import Timers

# Of what the machine, the user and the control group allow, jobs get so much; the rest is for the service.
_SHARE = 7 / 8
# Of what jobs get: above the first it is worth a look, above the second somebody is ended.
_MANY, _FULL = 1 / 4, 0.9
# Nobody with fewer is what a machine runs out of processes for.
_FEWEST = 64
_PER_SECOND = 50_000  # as fast as processes are made, about
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.05, 1.0


def find_limit() -> Optional[int]:
    """How many processes and threads jobs may have in all; None: nothing tells. Looked up before the root changes."""
    files = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max", *(f"{group}/pids.max" for group in _groups())]
    found = [int(data) for data in map(tree.read, files) if data.strip().isdigit()]
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard != resource.RLIM_INFINITY:
        found.append(hard)
    if soft != resource.RLIM_INFINITY:
        found.append(soft)
    return int(min(found) * _SHARE) if found else None


class ProcessWatchdog:
    """`begin`, in or before the thread that runs the timers; `relieve` whenever a process could not be made."""

    def __init__(
        self,
        *,
        limit: int,
        jobs: Dict[int, Job],
        orphans: Orphans,
        kill: Callable[[Job, str], None],
        timers: Timers,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        """`limit`: of processes and threads, for all jobs. `jobs`: by the pid of the first process. `kill`: ends a job
        at once, for a reason in words."""
        self._limit = limit
        self._jobs = jobs
        self._orphans = orphans
        self._kill = kill
        self._timers = timers
        self._clock = clock
        self._say = say
        self._group = next((group for group in _groups() if tree.read(f"{group}/pids.current")), None)

    def begin(self) -> None:
        """Looks, now and from then on."""
        tasks = self._tasks()
        # Only then can jobs have many, and the closer look is worth its while.
        if tasks > self._limit * _MANY:
            tasks = self._look()
        left = max(0, self._limit - tasks)
        wait = min(max(left / _PER_SECOND, _SHORTEST_SECONDS), _LONGEST_SECONDS)
        self._timers.at(self._clock() + wait, self.begin)

    def relieve(self) -> None:
        """There was no room for a process: ends the job that holds most, unless one that was ended is still going."""
        counted = census(self._jobs, self._orphans)
        held = sum(each.tasks for each in counted.values())
        most, job = max(
            ((each.tasks, job) for job, each in counted.items()), key=lambda each: each[0], default=(0, None)
        )
        if job is None or job.killed or most < _FEWEST:
            return
        detail = f"the machine was running out of processes, and of all jobs this one held most: {most} of {held}"
        self._say(f"{job.id}: {detail}")
        self._kill(job, detail)

    def _tasks(self) -> int:
        """At least as many as the jobs have. Cheap: a census of a busy container takes milliseconds, and the machine
        around it may have more tasks than the jobs may, all the time."""
        # proc_loadavg(5): the fourth field is running/all of the machine.
        fields = tree.read("/proc/loadavg").split()
        found = [int(fields[3].partition(b"/")[2])] if len(fields) > 3 else []
        if self._group is not None:
            # Ours holds every job: none may leave it.
            current = tree.read(f"{self._group}/pids.current").strip()
            found += [int(current)] if current.isdigit() else []
        return min(found, default=0)

    def _look(self) -> int:
        """How many jobs have."""
        held = sum(each.tasks for each in census(self._jobs, self._orphans).values())
        # Others than jobs may be of this user too, and count (RLIMIT_NPROC): whether there is room is then to be tried.
        if held > self._limit * _FULL or (held > self._limit * _MANY and not _has_room()):
            self.relieve()
        return held


def _has_room() -> bool:
    """Whether one more process, or thread, can be made now."""
    try:
        threading.Thread(target=int, name="room").start()
    except RuntimeError:
        return False
    return True


def _groups() -> Iterator[str]:
    """The control groups that count processes, the innermost first."""
    # cgroups(7): `0::/path` is version 2, `5:pids:/path` version 1. In a container the path may be the host's.
    for line in tree.read("/proc/self/cgroup").decode("utf-8", "replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = "/sys/fs/cgroup"
        elif "pids" in controllers.split(","):
            root = "/sys/fs/cgroup/pids"
        else:
            continue
        while True:
            yield f"{root}{path.rstrip('/')}"
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
