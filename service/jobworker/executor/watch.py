"""What wakes the control thread: descriptors with what is to be done, pidfds of jobs, pipes that were silent so far.
Many pipes end as silently as they began: only one that has something to say goes to the pump.

Where the kernel is short of something, a job runs unwatched for a while: it is looked at again.
"""

import os
import select
from functools import partial
from typing import Callable, Dict, Union

from .job import Job
from .pump import Log, Pump
from .timers import Timers

_AGAIN_SECONDS = 0.1

Watched = Union[Job, Log, Callable[[], None]]


class Watch:
    """An epoll, and what belongs to each descriptor in it."""

    def __init__(
        self,
        *,
        pump: Pump,
        timers: Timers,
        clock: Callable[[], float],
        exited: Callable[[Job], None],
        log_closed: Callable[[Job], None],
    ) -> None:
        """`exited`: a job's first process did. `log_closed`: a silent pipe came to its end."""
        self._pump = pump
        self._timers = timers
        self._clock = clock
        self._exited = exited
        self._log_closed = log_closed
        self._epoll = select.epoll()
        self._watched: Dict[int, Watched] = {}

    def wait(self, seconds: float) -> None:
        """Until something happened, or so long; -1: for ever. It acts on all of it, and what acts may close
        descriptors but open none: no event can meet one that was reused."""
        for fd, mask in self._epoll.poll(seconds, 256):
            watched = self._watched.get(fd)
            if isinstance(watched, Job):
                self._exited(watched)
            elif isinstance(watched, Log):
                if mask & select.EPOLLIN:
                    self.hand_over(watched)
                else:
                    self._close_silent(watched)
            elif watched is not None:
                watched()

    def add(self, fd: int, act: Callable[[], None]) -> None:
        """Calls it whenever there is something to read.

        Raises:
            OSError: the kernel is short of something.
        """
        self._epoll.register(fd, select.EPOLLIN)
        self._watched[fd] = act

    def change(self, fd: int, *, writable: bool) -> None:
        """Whether it calls also when there is room to write. Raises as `add`."""
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if writable else select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Before it is closed; also of one that was never added."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def add_job(self, job: Job) -> None:
        """Its end, and what it prints."""
        try:
            if job.pidfd < 0:
                job.pidfd = os.pidfd_open(job.pid)
            for log in job.logs:
                if not log.taken:
                    self._add_once(log.pipe, log)
            # Last: it is reaped once its end was seen, and then nothing may be left to be done here. Once is enough: a
            # zombie that is not reaped yet stays readable.
            self._add_once(job.pidfd, job)
        except OSError:
            self._timers.at(self._clock() + _AGAIN_SECONDS, partial(self.add_job, job))

    def remove_job(self, job: Job) -> None:
        """It was reaped, and its pidfd closed, which took it out of the epoll."""
        self._watched.pop(job.pidfd, None)

    def hand_over(self, log: Log) -> None:
        """Gives a log to the pump, if that has not got it."""
        if not log.taken:
            log.taken = True
            log.inode = log.pipe_inode()
            self.remove(log.pipe)
            self._pump.take(log)

    def _close_silent(self, log: Log) -> None:
        if not log.taken:
            log.taken = True
            self._watched.pop(log.pipe, None)
            log.close()
            self._log_closed(log.owner)

    def _add_once(self, fd: int, watched: Watched) -> None:
        if fd not in self._watched:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
            self._watched[fd] = watched
