"""Moves what jobs print from their pipes into their logs, in a thread of its own, so that a slow disk or a flood delays
no start and no signal. It knows pipes and files, not processes.

Each round takes a bounded piece from every pipe that has something. What happened is told by `news`, a queue that the
other thread empties.
"""

import errno
import fcntl
import os
import select
from collections import deque
from functools import partial
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from . import libc
from .protocol import END_JOB, TRUNCATE_HEAD, close_all
from .timers import Timers

PIECE_BYTES = 256 << 10
PIPE_BYTES = 64 << 10  # pipe(7): the default capacity
FLOOD_PIPE_BYTES = 1 << 20  # fs.pipe-max-size
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; Python names it from 3.10 on

# Holes begin and end at multiples of it, as blocks do: what was dropped is just what the file system has no bytes for.
PUNCH_ALIGNMENT = 64 << 10
# What may come between two punches: a quarter of what is kept, within these.
LEAST_STEP_BYTES = 128 << 10
MOST_STEP_BYTES = 1 << 20

_WATCH_AGAIN_SECONDS = 0.1

CLOSED = "closed"
OVER_LIMIT = "over limit"
DISK_FULL = "disk full"


class Budget:
    """What logs may still take, together, until it is to be decided by the policy: those of one job, or with
    TRUNCATE_HEAD one of them. Without a limit None. Only the pump changes it."""

    __slots__ = ("keep", "left", "policy", "step")

    def __init__(self, log_bytes: Optional[int], policy: str = END_JOB) -> None:
        self.left = log_bytes
        self.policy = policy
        if log_bytes is not None and policy == TRUNCATE_HEAD:
            self.keep = log_bytes  # of the end, at the least
            self.step = min(MOST_STEP_BYTES, max(LEAST_STEP_BYTES, log_bytes // 4))
            self.left = self.keep + self.step


class Log:
    """One pipe (its reading end, non-blocking) and the file it ends in, as descriptors that the log owns."""

    __slots__ = (
        "budget",
        "file",
        "finish",
        "full_since",
        "inode",
        "lost",
        "over",
        "owner",
        "pending",
        "pipe",
        "problem",
        "punched",
        "size",
        "taken",
        "trouble",
        "written",
    )

    def __init__(self, *, pipe: int, file: int, budget: Budget, owner: Any) -> None:
        self.pipe = pipe
        self.inode = 0  # of the pipe, once the pump has it and may close it at any moment
        self.file = file
        self.budget = budget
        self.owner = owner  # for the other thread, whatever it is
        self.taken = False  # by the pump; until then it is the other thread's. Only that one reads or sets this
        self.size = PIPE_BYTES
        self.written = 0
        self.lost = 0  # bytes that the disk would not take
        self.over = 0  # ... and that the limit did not allow
        self.punched = 0  # of those written: the first so many are a hole by now
        self.problem = ""  # why there can be none, and all that comes is over the limit
        self.pending = b""  # read, and not yet written since the disk is full
        self.full_since: Optional[float] = None
        self.finish = False  # close it as soon as it is empty, whoever else holds it
        self.trouble = ""  # OVER_LIMIT or DISK_FULL: what else comes is thrown away

    def pipe_inode(self) -> int:
        """What names the pipe for as long as anyone holds it. For the other thread."""
        return self.inode or os.fstat(self.pipe).st_ino

    def close(self) -> None:
        """Called once, by the thread that has it."""
        close_all((self.pipe, self.file))


class Pump:
    """`run` is the thread's work; `take` and `finish` are for the other one."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wake_other: Callable[[], None],
        retry_seconds: float,
        patience_seconds: float,
    ) -> None:
        """`patience_seconds`: how long a full disk may last before its job is given up."""
        self.news: Deque[Tuple[str, Log]] = deque()
        self._clock = clock
        self._wake_other = wake_other
        self._retry_seconds = retry_seconds
        self._patience_seconds = patience_seconds
        self._logs: Dict[int, Log] = {}
        self._to_finish: Deque[Log] = deque()
        self._unwatched: Deque[Log] = deque()  # there was no room to watch them
        self._timers = Timers()
        self._view = memoryview(bytearray(PIECE_BYTES))
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._epoll.register(self._wake_read, select.EPOLLIN)

    def take(self, log: Log) -> None:
        """From now on the log is the pump's; it tells CLOSED when it has closed it."""
        self._logs[log.pipe] = log
        try:
            # This wakes the thread that waits on the epoll: epoll_wait(2).
            self._epoll.register(log.pipe, select.EPOLLIN)
        except OSError:
            self._unwatched.append(log)
            self._wake()

    def finish(self, log: Log) -> None:
        """Has what is in the pipe taken and the log closed: its job is over."""
        self._to_finish.append(log)
        self._wake()

    def run(self) -> None:
        """For ever."""
        while True:
            for fd, mask in self._wait():
                if fd == self._wake_read:
                    os.read(fd, 4096)
                else:
                    self._piece(self._logs[fd], mask)
            while self._unwatched:
                self._watch(self._unwatched.popleft())
            while self._to_finish:
                self._finish(self._to_finish.popleft())
            self._timers.run(self._clock())
            if self.news:
                self._wake_other()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b".")
        except BlockingIOError:
            pass  # many wakes are waiting already

    def _watch(self, log: Log) -> None:
        if self._logs.get(log.pipe) is not log or log.full_since is not None:
            return  # closed since, or to be left alone
        try:
            self._epoll.register(log.pipe, select.EPOLLIN)
        except FileExistsError:
            pass
        except OSError:
            # The kernel is short of memory, or the user of watches (epoll(7)).
            self._timers.at(self._clock() + _WATCH_AGAIN_SECONDS, partial(self._watch, log))

    def _unwatch(self, log: Log) -> None:
        try:
            self._epoll.unregister(log.pipe)
        except OSError:
            pass  # there was no room to watch it

    def _wait(self) -> List[Tuple[int, int]]:
        due = self._timers.next()
        return self._epoll.poll(-1 if due is None else max(0.0, due - self._clock()), 256)

    def _piece(self, log: Log, mask: int) -> None:
        moved = self._move(log)
        # With no writer left there is no more to come than the pipe holds, so its end is near.
        while moved > 0 and mask & select.EPOLLHUP:
            moved = self._move(log)
        if moved == 0:
            self._close(log)

    def _move(self, log: Log) -> int:
        """One piece. Bytes taken from the pipe; 0 is its end, -1 is nothing now."""
        try:
            size = os.readv(log.pipe, [self._view])
        except BlockingIOError:
            return -1
        if size == 0:
            return 0
        if size == log.size == PIPE_BYTES:
            self._widen(log)
        piece = self._view[:size]
        left = log.budget.left
        if log.trouble:
            if log.trouble == DISK_FULL:
                log.lost += size
            else:
                log.over += size
            return size
        if left is not None:
            if size > left:
                return self._beyond(log, piece, left)
            log.budget.left = left - size
        return size if self._write(log, piece) else -1

    def _beyond(self, log: Log, piece: memoryview, left: int) -> int:
        """As `_move`, of more than the budget has left."""
        size = len(piece)
        log.budget.left = 0
        if log.budget.policy == TRUNCATE_HEAD:
            if not self._write(log, piece):
                return -1
            self._punch(log)
            return size
        log.over += size - left
        if log.budget.policy == END_JOB:
            self._tell(OVER_LIMIT, log)
        else:
            log.trouble = OVER_LIMIT
        return size if self._write(log, piece[:left]) else -1

    def _punch(self, log: Log) -> None:
        """Takes out what is older than the last bytes that are to be kept."""
        budget = log.budget
        end = (log.written - budget.keep) // PUNCH_ALIGNMENT * PUNCH_ALIGNMENT
        if end > log.punched:
            try:
                libc.punch_hole(log.file, log.punched, end - log.punched)
            except OSError as error:
                log.problem = f"its log has the beginning and not the end: no hole can be punched ({error.strerror})"
                log.trouble = log.trouble or OVER_LIMIT
                return
            log.punched = end
        budget.left = max(0, log.punched + budget.keep + budget.step - log.written)

    def _write(self, log: Log, piece: memoryview) -> bool:
        """False: the disk is full, the rest is kept and the pipe is left alone until it was written."""
        while piece:
            try:
                size = os.write(log.file, piece)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT) and self._hold(log, piece):
                    return False
                log.lost += len(piece)
                self._tell(DISK_FULL, log)
                return True
            log.written += size
            piece = piece[size:]
        return True

    def _hold(self, log: Log, piece: memoryview) -> bool:
        now = self._clock()
        if log.full_since is None:
            log.full_since = now
            self._unwatch(log)
        elif now - log.full_since >= self._patience_seconds:
            return False
        log.pending = bytes(piece)
        self._timers.at(now + self._retry_seconds, partial(self._retry, log))
        return True

    def _retry(self, log: Log) -> None:
        if not self._write(log, memoryview(log.pending)):
            return
        log.pending = b""
        log.full_since = None
        self._watch(log)
        if log.finish:
            self._finish(log)

    def _finish(self, log: Log) -> None:
        if self._logs.get(log.pipe) is not log:
            return  # it came to its end by itself
        log.finish = True
        if log.full_since is not None:
            return
        taken = 0
        moved = self._move(log)
        # Whoever still writes into it is not of this job, and might never stop.
        while moved > 0 and taken < 2 * FLOOD_PIPE_BYTES:
            taken += moved
            moved = self._move(log)
        if log.full_since is None:
            self._close(log)

    def _close(self, log: Log) -> None:
        del self._logs[log.pipe]
        # Explicitly: a child between fork and exec still has the file open, and its events would go on.
        self._unwatch(log)
        log.close()
        self.news.append((CLOSED, log))

    def _tell(self, trouble: str, log: Log) -> None:
        log.trouble = trouble
        self.news.append((trouble, log))

    def _widen(self, log: Log) -> None:
        # A full pipe is a flood: 0.4 instead of 1.6 wake-ups per 100 KiB. Past fs.pipe-user-pages-soft it is refused.
        log.size = FLOOD_PIPE_BYTES
        try:
            fcntl.fcntl(log.pipe, _F_SETPIPE_SZ, FLOOD_PIPE_BYTES)
        except OSError:
            pass
