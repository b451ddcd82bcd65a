"""The end of a job, whoever begins it. The order of its steps is what keeps pids and sessions from being reused, output
from being cut, and processes from being left behind:

1. Its first process ends and becomes a zombie, which is not reaped yet.
2. If its output is still open, it may linger (`> >(tee f)`); then everything left gets SIGTERM, grace, SIGKILL.
3. When nothing of it is left the pipe is drained to its end.
4. The first process is reaped, which gives status and usage, and the end is reported.
"""

import os
import signal
from functools import partial
from typing import Callable, Dict, Iterable, List

from . import protocol, signals, tree
from .job import Job, Stage
from .memory import MemoryKills
from .orphans import Orphans
from .protocol import End, EndUsage
from .pump import Log, Pump
from .timers import Timers

_KILL_AGAIN_SECONDS = 0.02
_KILL_AGAIN_AT_MOST_SECONDS = 1.0


class Reaper:
    """Ends jobs. It owns each from its start on; `jobs` is by the pid of the first process."""

    def __init__(
        self,
        *,
        jobs: Dict[int, Job],
        orphans: Orphans,
        pump: Pump,
        hand_over: Callable[[Log], None],
        timers: Timers,
        memory: MemoryKills,
        report: Callable[[End], None],
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._orphans = orphans
        self._signals = signals.Signals(orphans=orphans)
        self._pump = pump
        self._hand_over = hand_over
        self._timers = timers
        self._memory = memory
        self._report = report
        self._clock = clock

    def exited(self, jobs: Iterable[Job]) -> None:
        """The first processes of these jobs ended, or, with none, some orphan did."""
        for job in jobs:
            job.exited = True
            if job.stage is Stage.TERMINATING:
                self._signals.terminate(job)  # who was not below it, or was born since
        changed = self._orphans.look()
        changed.update(jobs)
        for job in changed:
            self._advance(job)
        self._kill_strays()

    def begin(self) -> None:
        """The first of its jobs starts: what was killed for want of memory until now was none of them."""
        self._memory.happened()

    def log_closed(self, job: Job) -> None:
        """One of its pipes came to its end."""
        job.open_logs -= 1
        self._advance(job)

    def stop(self, job: Job, *, reason: str, grace_seconds: float, detail: str = "") -> None:
        """Ends it. The first reason stays, and so does an end that it found by itself."""
        if not job.exited and not job.reason:
            job.reason = reason
            job.detail = detail
        if job.stage in (Stage.RUNNING, Stage.LINGERING):
            self._terminate(job, grace_seconds)

    def kill(self, job: Job, *, reason: str, detail: str) -> None:
        """Ends it with no grace, wherever its end has come to."""
        if not job.exited and not job.reason:
            job.reason = reason
            job.detail = detail
        if job.stage in (Stage.RUNNING, Stage.LINGERING, Stage.TERMINATING):
            self._timers.cancel(job.timer)
            self._kill(job, _KILL_AGAIN_SECONDS)

    def trouble(self, job: Job, *, reason: str, detail: str) -> None:
        """Its output cannot be kept any longer; this is the reason even if its first process has ended by itself."""
        job.reason = job.reason or reason
        job.detail = job.detail or detail
        self.stop(job, reason=reason, grace_seconds=job.grace_seconds)

    def _advance(self, job: Job) -> None:
        if not job.exited or self._jobs.get(job.pid) is not job:
            return
        left = self._orphans.of(job)
        if job.stage is Stage.RUNNING:
            if job.open_logs and job.linger_seconds > 0:
                self._linger(job)
                return
            if left:
                self._terminate(job, job.grace_seconds)
                return
        elif job.stage is Stage.LINGERING:
            if job.open_logs:
                return
            if left:
                self._terminate(job, job.grace_seconds)
                return
        elif left:
            return  # the timer of the stage goes on
        if job.open_logs:
            self._drain(job)
        else:
            self._finish(job)

    def _linger(self, job: Job) -> None:
        job.stage = Stage.LINGERING
        job.timer = self._timers.at(self._clock() + job.linger_seconds, partial(self._lingered, job))

    def _lingered(self, job: Job) -> None:
        if self._orphans.of(job):
            self._terminate(job, job.grace_seconds)
        else:
            self._drain(job)  # who holds its output is not of this job

    def _terminate(self, job: Job, grace_seconds: float) -> None:
        job.stage = Stage.TERMINATING
        self._timers.cancel(job.timer)
        job.timer = self._timers.at(self._clock() + grace_seconds, partial(self._kill, job, _KILL_AGAIN_SECONDS))
        self._signals.terminate(job)

    def _kill(self, job: Job, again_seconds: float) -> None:
        job.stage = Stage.KILLING
        self._signals.kill(job)
        # One call may miss what was being forked. A process in an uninterruptible sleep takes long to die.
        later = min(again_seconds * 2, _KILL_AGAIN_AT_MOST_SECONDS)
        job.timer = self._timers.at(self._clock() + again_seconds, partial(self._kill, job, later))

    def _drain(self, job: Job) -> None:
        if job.stage is Stage.DRAINING:
            return
        job.stage = Stage.DRAINING
        self._timers.cancel(job.timer)
        for log in job.logs:
            self._hand_over(log)
            self._pump.finish(log)

    def _finish(self, job: Job) -> None:
        _, status, usage = os.wait4(job.pid, 0)
        # Never by the clock of the day, which may have been set since. CLOCK_MONOTONIC, as timeouts and epoll_wait(2)
        # have it: a job did not run while the machine slept, which CLOCK_BOOTTIME counts as well.
        ended_ns = job.started_ns + round((self._clock() - job.started_at) * 1e9)
        del self._jobs[job.pid]
        os.close(job.pidfd)
        self._timers.cancel(job.timer)
        self._timers.cancel(job.deadline)
        self._orphans.forget(job)
        code = signalled = None
        if os.WIFSIGNALED(status):
            signalled = os.WTERMSIG(status)
            reason = protocol.SIGNALLED
            if signalled == signal.SIGKILL and not job.killed and self._memory.happened():
                reason = protocol.MEMORY
        else:
            code = os.WEXITSTATUS(status)
            reason = protocol.EXITED
        peak = usage.ru_maxrss
        told: EndUsage = {
            "user_us": round(usage.ru_utime * 1e6),
            "system_us": round(usage.ru_stime * 1e6),
            # A child of vfork has its parent's peak until it execs, and keeps it (fs/exec.c, setmax_mm_hiwater_rss).
            "peak_memory_bytes": peak * 1024 if peak > job.peak_kib else None,
            "read_bytes": usage.ru_inblock * 512,
            "written_bytes": usage.ru_oublock * 512,
            "voluntary": usage.ru_nvcsw,
            "involuntary": usage.ru_nivcsw,
        }
        self._report(job.end(reason=job.reason or reason, code=code, signal=signalled, ended_ns=ended_ns, usage=told))

    def _kill_strays(self) -> None:
        pids: List[int] = self._orphans.strays()
        for pid in pids:
            for each in (pid, *tree.descendants(pid)):
                process = tree.stat(each)
                if process is not None:
                    signals.send(process, signal.SIGKILL)
