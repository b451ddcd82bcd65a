"""The executor's main loop, in a thread that is not the leader: the orphans are the leader's children, see `tree`.

Woken by the socket, pidfds, pipes that were silent so far, signals, the pump and timers. Silent pipes are
watched here, since many end as silently: only one that has something to say goes to the pump.
"""

import os
import select
import signal
import struct
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, NoReturn, Optional, Union

from . import protocol
from .job import Job
from .outbox import Outbox
from .protocol import End, Order, Started, close_all
from .pump import CLOSED, DISK_FULL, Log, Pump
from .reap import Reaper
from .session import Session
from .start import Malformed, Starter, allot
from .timers import Timers
from .turns import Turns
from .work import Work

_STARTS_PER_ROUND = 8
_RECONNECT_SECONDS = 0.2
_ROOM_SECONDS = 0.1  # then an order for which there was no process is tried again
_ROOM_PATIENCE_SECONDS = 15.0
_REPORT_SECONDS = 0.002  # a quick job ends within it, and its end tells its start as well
_SI_USER, _SI_KERNEL = 0, 0x80  # asm-generic/siginfo.h: the sender is as the kernel says
_LONGEST_WAIT_SECONDS = 86_400.0  # epoll_wait(2) counts milliseconds in 31 bits

Watched = Union[Job, Log, Callable[[], None]]


class Control:
    """`run` is the thread's work. Wired by `main`, which sets `session`, `starter` and `reaper`; where there are any,
    `work`, the work folders, and `relieve`, which makes room for processes."""

    session: Session
    starter: Starter
    reaper: Reaper
    work: Optional[Work] = None
    relieve: Optional[Callable[[], None]] = None

    def __init__(
        self,
        *,
        outbox: Outbox,
        timers: Timers,
        pump: Pump,
        wake: int,
        signals: int,
        lifeline: Optional[int],
        guard_died: Callable[[], NoReturn],
        clock: Callable[[], float],
        stop_grace_seconds: float,
        ack_seconds: float,
    ) -> None:
        """`wake`: readable when the pump has news. `signals`: a signalfd. `lifeline`: readable when the guard was told
        to stop, at its end when it died. `ack_seconds`: how long a stopping executor waits for the last
        acknowledgement."""
        self.jobs: Dict[int, Job] = {}
        self.stopping = False
        self._by_id: Dict[str, Job] = {}
        self._outbox = outbox
        self._timers = timers
        self._pump = pump
        self._wake = wake
        self._signals = signals
        self._guard_died = guard_died
        self._clock = clock
        self._stop_grace_seconds = stop_grace_seconds
        self._ack_seconds = ack_seconds
        self._turns = Turns()
        self._no_room_since: Dict[str, float] = {}  # orders that wait for room among the processes
        self._tries_again = False
        self._exited: List[Job] = []
        self._orphan_exited = False
        self._waits_for_acks = False
        self._over = False
        self._socket = -1
        self._writable = False
        self._reports_due: Optional[float] = None
        self._epoll = select.epoll()
        self._watched: Dict[int, Watched] = {}
        self._watch(wake, self._read_wake)
        self._watch(signals, self._read_signals)
        if lifeline is not None:
            self._watch(lifeline, partial(self._read_lifeline, lifeline))

    def run(self) -> None:
        """Until the executor was told to stop and everything is over."""
        self._open()
        self._flush()
        while not self._over:
            talk = self._wait()
            self._hear_pump()
            self._end_exited()
            self._timers.run(self._clock())
            if talk:
                self._read()
            self._start_some()
            self._check_over()
            self._flush()

    # The steps of a round. Descriptors are closed in all of them, and opened only from `_read` on: no event of a round
    # can meet a descriptor that was reused within it.

    def _wait(self) -> bool:
        """Notes what happened; True: the server sent something."""
        talk = False
        for fd, mask in self._epoll.poll(self._timeout(), 256):
            watched = self._watched.get(fd)
            if isinstance(watched, Job):
                self._exited.append(watched)
            elif isinstance(watched, Log):
                if mask & select.EPOLLIN:
                    self.hand_over(watched)
                else:
                    self._close_silent(watched)
            elif fd == self._socket:
                talk = True
            elif watched is not None:
                watched()
        return talk

    def _timeout(self) -> float:
        if self._turns.ready:
            return 0
        due = self._timers.next()
        if self._reports_due is not None and not self._writable:
            due = self._reports_due if due is None else min(due, self._reports_due)
        return -1 if due is None else min(max(0.0, due - self._clock()), _LONGEST_WAIT_SECONDS)

    def _hear_pump(self) -> None:
        news = self._pump.news
        while news:
            what, log = news.popleft()
            job = log.owner
            if what == CLOSED:
                self.reaper.log_closed(job)
            elif what == DISK_FULL:
                detail = "the log could not be written: the disk is full or failing"
                self.reaper.trouble(job, reason=protocol.DISK_FULL, detail=detail)
            else:
                self.reaper.trouble(job, reason=protocol.LOG_LIMIT, detail="it printed more than its log may hold")

    def _end_exited(self) -> None:
        if self._exited or self._orphan_exited:
            exited, self._exited, self._orphan_exited = self._exited, [], False
            self.reaper.exited(exited)

    def _read(self) -> None:
        try:
            self.session.read()
        except EOFError:
            self._disconnected()

    def _start_some(self) -> None:
        ready = self._turns.ready
        if ready:
            self.starter.start([ready.popleft() for _ in range(min(_STARTS_PER_ROUND, len(ready)))])

    def _check_over(self) -> None:
        if self.stopping and not self.jobs:
            nobody = self._socket < 0 and not self.session.reopens
            if nobody or not self._outbox.kept:
                self._over = True
            elif not self._waits_for_acks:
                self._waits_for_acks = True
                self._timers.at(self._clock() + self._ack_seconds, self._give_up)

    def _flush(self) -> None:
        try:
            due = self._reports_due is not None and self._clock() >= self._reports_due
            done = self._outbox.flush(due=due)
            if due:
                self._reports_due = None if done else self._clock() + protocol.CROWDED_RETRY_SECONDS
        except OSError:
            return  # the end of the connection is told by reading it
        if not done and self._outbox.crowded:
            # It is writable all the time: too many descriptors are in flight.
            self._timers.at(self._clock() + protocol.CROWDED_RETRY_SECONDS, lambda: None)
        elif done == self._writable and self._socket >= 0:
            self._writable = not done
            self._epoll.modify(self._socket, select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT)

    # What the server asks for: session.Worker.

    def start(self, orders: List[Any], fds: List[int]) -> None:
        """Queues orders; they start within the next rounds."""
        try:
            allotted = allot(orders, fds)
        except Malformed as error:
            close_all(fds)
            self.lost(orders, f"malformed order: {error}")
            self._outbox.say({"m": "error", "detail": str(error)})
            return
        for order, own in allotted:
            if order["id"] in self._turns or order["id"] in self._outbox.kept:
                close_all(own)
                self._outbox.say({"m": "error", "detail": f"{order['id']} was ordered twice"})
            elif self.stopping:
                self._refuse_stopping(order, own)
            else:
                self._turns.add(order, own)

    def lost(self, orders: List[Any], detail: str) -> None:
        """Ends orders that cannot be started for what they came with."""
        for order in orders:
            if isinstance(order, dict) and isinstance(order.get("id"), str) and order["id"] not in self._by_id:
                known = {"id": order["id"], "logs": 2 if order.get("logs") == 2 else 1}
                self.starter.refuse(known, [], reason=protocol.SPAWN_FAILED, detail=detail)  # type: ignore[arg-type]

    def stop(self, ids: Iterable[str], reason: str, grace_seconds: Optional[float]) -> None:
        """Ends jobs, started or not."""
        wanted = set(ids)
        for name in wanted:
            job = self._by_id.get(name)
            if job is not None:
                grace = job.grace_seconds if grace_seconds is None else grace_seconds
                self.reaper.stop(job, reason=reason, grace_seconds=grace)
        for order, own in self._turns.remove(wanted):
            self.starter.refuse(order, own, reason=reason, detail="it had not started")

    def over(self, batches: Iterable[str]) -> None:
        """No job of these starts any more: their work folders go."""
        if self.work is not None:
            self.work.over(batches)

    def unfinished(self, batches: Iterable[str]) -> None:
        """No job of any other starts any more."""
        if self.work is not None:
            self.work.unfinished(frozenset(batches))

    def settle(self) -> List[Started]:
        """Starts all whose turn it is; the jobs that run."""
        while self._turns.ready:
            self._start_some()
        return [job.started() for job in self.jobs.values()]

    def waiting(self) -> List[str]:
        """The orders whose turn it is not."""
        return self._turns.waiting()

    # What the parts tell.

    def postpone(self, order: Order, fds: List[int]) -> bool:
        """There was no room for a job's process; False: this has gone on for too long."""
        now = self._clock()
        if now - self._no_room_since.setdefault(order["id"], now) > _ROOM_PATIENCE_SECONDS:
            del self._no_room_since[order["id"]]
            return False
        if self.relieve is not None:
            self.relieve()
        self._turns.postpone((order, fds))
        if not self._tries_again:
            self._tries_again = True
            self._timers.at(now + _ROOM_SECONDS, self._try_again)
        return True

    def job_started(self, job: Job, order: Order) -> None:
        """A job runs: watch it."""
        if not self.jobs:
            self.reaper.begin()
        self._no_room_since.pop(job.id, None)
        self.jobs[job.pid] = job
        self._by_id[job.id] = job
        # One report is enough: a zombie that is not reaped yet stays readable.
        self._watched[job.pidfd] = job
        self._epoll.register(job.pidfd, select.EPOLLIN | select.EPOLLONESHOT)
        for log in job.logs:
            self._watched[log.pipe] = log
            self._epoll.register(log.pipe, select.EPOLLIN | select.EPOLLONESHOT)
        timeout = order["timeout"]
        if timeout is not None:
            job.deadline = self._timers.at(self._clock() + timeout, lambda: self._timed_out(job))
        self._outbox.started(job.started())
        self._report_soon()

    def job_ended(self, end: End) -> None:
        """A job is over, or never was."""
        self._no_room_since.pop(end["id"], None)
        job = self._by_id.pop(end["id"], None)
        if job is not None:
            del self._watched[job.pidfd]
        urgent = not self._turns.leave(end["id"])
        self._outbox.ended(end, urgent=urgent)
        if not urgent:
            self._report_soon()

    def _try_again(self) -> None:
        self._tries_again = False
        self._turns.resume()

    def _report_soon(self) -> None:
        if self._reports_due is None:
            self._reports_due = self._clock() + _REPORT_SECONDS

    def hand_over(self, log: Log) -> None:
        """Gives a log to the pump, if that has not got it."""
        if not log.taken:
            log.taken = True
            log.inode = log.pipe_inode()
            del self._watched[log.pipe]
            self._epoll.unregister(log.pipe)
            self._pump.take(log)

    def _close_silent(self, log: Log) -> None:
        if not log.taken:
            log.taken = True
            del self._watched[log.pipe]
            log.close()
            self.reaper.log_closed(log.owner)

    def _timed_out(self, job: Job) -> None:
        self.reaper.stop(job, reason=protocol.TIMEOUT, grace_seconds=job.grace_seconds)

    def _read_wake(self) -> None:
        os.read(self._wake, 4096)

    def _read_signals(self) -> None:
        # signalfd(2): structs of 128 bytes that begin with number, errno, code and the sender's pid.
        data = os.read(self._signals, 128 * 8)
        for at in range(0, len(data), 128):
            number, _, code, sender = struct.unpack_from("=IiiI", data, at)
            if number == signal.SIGCHLD:
                self._orphan_exited = True
            elif code in (_SI_USER, _SI_KERNEL) and sender == 0:
                # From outside of the namespace: a sender there has no pid here. Jobs share the uid and may signal even
                # PID 1, and what is blocked is kept for it (pid_namespaces(7)); with other codes they name any sender
                # they like (rt_sigqueueinfo(2)), or none (F_SETSIG, fcntl(2)).
                self._interrupt()

    def _read_lifeline(self, lifeline: int) -> None:
        if os.read(lifeline, 4096):
            self._interrupt()
        else:
            self._guard_died()

    def _interrupt(self) -> None:
        if self.stopping:
            return
        self.stopping = True
        self._outbox.say({"m": "stopping"})
        for order, own in self._turns.remove(None):
            self._refuse_stopping(order, own)
        for job in list(self.jobs.values()):
            grace = min(job.grace_seconds, self._stop_grace_seconds)
            self.reaper.stop(job, reason=protocol.INTERRUPTED, grace_seconds=grace)

    def _give_up(self) -> None:
        self._over = True

    def _refuse_stopping(self, order: Order, fds: List[int]) -> None:
        self.starter.refuse(order, fds, reason=protocol.INTERRUPTED, detail="the executor was stopping")

    # The connection.

    def _open(self) -> None:
        fd = self.session.open()
        if fd is None:
            self._timers.at(self._clock() + _RECONNECT_SECONDS, self._open)
            return
        self._socket = fd
        self._writable = False
        self._watch(fd, self._read)

    def _disconnected(self) -> None:
        self._epoll.unregister(self._socket)
        del self._watched[self._socket]
        self._socket = -1
        self.session.close()
        if self.session.reopens:
            # A server may also have refused us, and would be asked again and again.
            self._timers.at(self._clock() + _RECONNECT_SECONDS, self._open)
        else:
            self._interrupt()  # its other end is with the supervisor, which is gone

    def _watch(self, fd: int, act: Callable[[], None]) -> None:
        self._watched[fd] = act
        self._epoll.register(fd, select.EPOLLIN)
