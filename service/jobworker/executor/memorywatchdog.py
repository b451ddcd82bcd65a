"""Ends the greediest job before the memory of the control group runs out.

Without it the kernel decides, and where a container is one group for it (memory.oom.group, as Kubernetes sets it with
cgroup version 2) it kills the executor and every other job along. It knows no messages: whom to end is told to the
reaper.

The kernel tells of no threshold to a process that may not write into its group, so the figure is looked at: the more
often, the less is left.
"""

from typing import Callable, Dict

from .census import census
from .job import Job
from .memory import Group
from .orphans import Orphans
from .timers import Timers

# As fast as processes can take memory, about: fresh pages are zeroed by the kernel first.
_BYTES_PER_SECOND = 4 << 30
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.005, 1.0
_UNLIMITED_SECONDS = 10.0  # a limit may come later: a pod can be resized in place


class MemoryWatchdog:
    """`begin`, in or before the thread that runs the timers."""

    def __init__(
        self,
        *,
        group: Group,
        fraction: float,
        jobs: Dict[int, Job],
        orphans: Orphans,
        kill: Callable[[Job, str], None],
        timers: Timers,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        """`fraction`: of the limit, where it begins to end jobs. `jobs`: by the pid of the first process. `kill`: ends
        a job at once, for a reason in words."""
        self._group = group
        self._fraction = fraction
        self._jobs = jobs
        self._orphans = orphans
        self._kill = kill
        self._timers = timers
        self._clock = clock
        self._say = say
        self._told = False
        self._ending: Dict[Job, int] = {}  # killed, with the bytes that they held then

    def begin(self) -> None:
        """Looks, now and from then on."""
        self._timers.at(self._clock() + self._look(), self.begin)

    def _look(self) -> float:
        """Does what is to be done now; when to look again, in seconds from now."""
        limit = self._group.limit()
        if limit is None:
            return _UNLIMITED_SECONDS
        most = int(limit * self._fraction)
        held = self._group.held()
        if held > most:
            held -= self._group.cached()
        if held > most:
            self._relieve(held, most, limit)
        else:
            self._told = False
        return min(max((most - held) / _BYTES_PER_SECOND, _SHORTEST_SECONDS), _LONGEST_SECONDS)

    def _relieve(self, held: int, most: int, limit: int) -> None:
        """Ends as few jobs as it takes; none where that would not be enough, since then others hold the memory."""
        counted = census(self._jobs, self._orphans)
        # What no file backs; the greediest first.
        holders = sorted(((held.bytes, job) for job, held in counted.items()), key=lambda each: each[0], reverse=True)
        # What ends gives its memory back before it is final, but its processes show none as soon as they begin to.
        self._ending = {job: own for job, own in self._ending.items() if self._jobs.get(job.pid) is job}
        too_much = held - most - sum(max(own, self._ending.get(job, 0)) for own, job in holders if job.killed)
        too_much -= sum(own for job, own in self._ending.items() if job not in counted)
        living = [(own, job) for own, job in holders if not job.killed]
        if too_much > sum(own for own, _ in living):
            if not self._told:
                self._told = True
                self._say(f"memory runs out ({held} of {limit} bytes), and the jobs hold too little of it to end any")
            return
        for own, job in living:
            if too_much <= 0:
                return
            too_much -= own
            detail = f"memory ran out ({held} of {limit} bytes in all), and of all jobs this one held most: {own} bytes"
            self._say(f"{job.id}: {detail}")
            self._ending[job] = own
            self._kill(job, detail)
