"""Processes that lost their parent and became the executor's: whose they are, and when they are gone.

An orphan belongs to a job by its session, by the job's mark in its environment, by holding the job's pipe, or by having
been seen below one that does. One with none of these belongs to whichever of the jobs that ran when it was first seen
is the last to end.
"""

import os
from typing import Dict, Iterable, List, Optional, Set, Tuple

from . import tree
from .job import Job


class _Orphan:
    __slots__ = ("job", "suspects")

    def __init__(self, job: Optional[Job], suspects: Set[Job]) -> None:
        self.job = job
        self.suspects = suspects


class Orphans:
    """A register of the living ones. Zombies are reaped as they are met."""

    def __init__(self, *, adopted: tree.Adopted, jobs: Dict[int, Job]) -> None:
        """`jobs`: by the pid of the first process, kept up by the owner."""
        self._adopted = adopted
        self._jobs = jobs
        self._known: Dict[int, _Orphan] = {}
        self._relatives: Dict[Tuple[int, int], Job] = {}

    def look(self) -> Set[Job]:
        """Looks once more. The jobs for which something changed."""
        pids = self._adopted.pids(self._jobs)
        changed: Set[Job] = set()
        for pid in pids:
            try:
                gone, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # it is not a child of ours any more, so neither an orphan
            if gone:
                orphan = self._known.pop(pid, None)
                if orphan is not None:
                    changed.update([orphan.job] if orphan.job is not None else orphan.suspects)
            elif pid not in self._known:
                orphan = self._known[pid] = self._attribute(pid)
                if orphan.job is not None:
                    changed.add(orphan.job)
        return changed

    def of(self, job: Job) -> List[int]:
        """The living orphans that are this job's now."""
        if not self._known:
            return []
        return [
            pid
            for pid, orphan in self._known.items()
            if orphan.job is job or (orphan.job is None and orphan.suspects == {job})
        ]

    def relate(self, job: Job, processes: Iterable[tree.Stat]) -> None:
        """Remembers that these were seen below a process of the job."""
        for process in processes:
            self._relatives[process.pid, process.start] = job

    def forget(self, job: Job) -> None:
        """The job is final."""
        if self._relatives:
            self._relatives = {key: owner for key, owner in self._relatives.items() if owner is not job}
        for orphan in self._known.values():
            orphan.suspects.discard(job)

    def strays(self) -> List[int]:
        """The living orphans that are nobody's."""
        if not self._known:
            return []
        return [pid for pid, orphan in self._known.items() if orphan.job is None and not orphan.suspects]

    def _attribute(self, pid: int) -> _Orphan:
        process = tree.stat(pid)
        if process is None:
            # It lives, or its zombie would have been reaped: there was no room to look (no descriptor, say).
            return _Orphan(None, set(self._jobs.values()))
        job = self._jobs.get(process.session) or self._relatives.get((pid, process.start))
        if job is None:
            mark = tree.mark(pid)
            job = next((job for job in self._jobs.values() if job.id == mark), None) if mark else None
        if job is None:
            pipes = {
                log.pipe_inode(): job for job in self._jobs.values() for log in job.logs if log.inode or not log.taken
            }
            inode = tree.held_pipe(pid, pipes)
            job = pipes[inode] if inode is not None else None
        return _Orphan(job, set() if job is not None else set(self._jobs.values()))
