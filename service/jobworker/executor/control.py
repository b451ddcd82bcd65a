"""The executor's main loop, in a thread that is not the leader: the orphans are the leader's children, see `tree`.

Woken by what `watch` watches, the pump and timers.
"""

import os
import signal
import struct
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, NoReturn, Optional

from . import protocol
from .batchslots import BatchSlots
from .descriptors import Descriptors
from .job import Job
from .link import Link
from .outbox import Outbox
from .protocol import End, Order, Started, close_all
from .pump import CLOSED, DISK_FULL, Pump
from .reap import Reaper
from .room import Room
from .start import Malformed, Starter, allot, count_arrived
from .startflags import StartFlags
from .timers import Timers
from .watch import Watch
from .work import Work

_SI_USER, _SI_KERNEL = 0, 0x80  # asm-generic/siginfo.h: the sender is as the kernel says
_LONGEST_WAIT_SECONDS = 86_400.0  # epoll_wait(2) counts milliseconds in 31 bits


class Control:
    """`run` is the thread's work. Wired by `main`, which sets `starter` and `reaper` and, where there are any, `work`,
    the work folders."""

    starter: Starter
    reaper: Reaper
    work: Optional[Work] = None

    def __init__(
        self,
        *,
        outbox: Outbox,
        flags: StartFlags,
        timers: Timers,
        pump: Pump,
        wake: int,
        signals: int,
        lifeline: Optional[int],
        guard_died: Callable[[], NoReturn],
        clock: Callable[[], float],
        time_ns: Callable[[], int],
        say: Callable[[str], None],
        stop_grace_seconds: float,
        ack_seconds: float,
    ) -> None:
        """`wake`: readable when the pump has news. `signals`: a signalfd. `lifeline`: readable when init was told
        to stop, at its end when it died. `ack_seconds`: how long a stopping executor waits for the last
        acknowledgement."""
        self.jobs: Dict[int, Job] = {}
        self.stopping = False
        self._by_id: Dict[str, Job] = {}
        self._outbox = outbox
        self._flags = flags
        self._timers = timers
        self._pump = pump
        self._wake = wake
        self._signals = signals
        self._guard_died = guard_died
        self._clock = clock
        self._stop_grace_seconds = stop_grace_seconds
        self._ack_seconds = ack_seconds
        self._slots = BatchSlots()
        self.room = Room(
            slots=self._slots,
            jobs=self.jobs,
            descriptors=Descriptors(),
            timers=timers,
            clock=clock,
            time_ns=time_ns,
            tell=outbox.short,
            order_again=self._order_again,
        )
        self._watch = Watch(
            pump=pump, timers=timers, clock=clock, exited=self._exited_now, log_closed=self._silent_log_closed
        )
        self.hand_over = self._watch.hand_over
        self.link = Link(outbox=outbox, timers=timers, watch=self._watch, clock=clock, gone=self._interrupt, say=say)
        self._exited: List[Job] = []
        self._orphan_exited = False
        self._waits_for_acks = False
        self._over = False
        self._watch.add(wake, self._read_wake)
        self._watch.add(signals, self._read_signals)
        if lifeline is not None:
            self._watch.add(lifeline, partial(self._read_lifeline, lifeline))

    def run(self) -> None:
        """Until the executor was told to stop and everything is over."""
        self.link.open()
        self.link.flush()
        while not self._over:
            self._watch.wait(self._timeout())
            self._hear_pump()
            self._end_exited()
            self._timers.run(self._clock())
            self.link.read()
            self._start_some()
            self._check_over()
            self.link.flush()

    # The steps of a round.

    def _timeout(self) -> float:
        if self.room.ready:
            return 0
        due = self._timers.next()
        report = self.link.due()
        if report is not None:
            due = report if due is None else min(due, report)
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

    def _start_some(self) -> None:
        if self.room.ready:
            self.starter.start(self.room.bunch())
            self.room.tried()

    def _check_over(self) -> None:
        if self.stopping and not self.jobs:
            if self.link.is_over or not self._outbox.kept:
                self._over = True
            elif not self._waits_for_acks:
                self._waits_for_acks = True
                self._timers.at(self._clock() + self._ack_seconds, self._give_up)

    # What the server asks for: session.Worker.

    def start(self, orders: List[Any], fds: List[int]) -> None:
        """Queues orders; they start within the next rounds."""
        self.room.received(len(fds))
        try:
            allotted = allot(orders, fds)
        except Malformed as error:
            self._refuse_malformed(orders, fds, error)
            return
        for order, own in allotted:
            if order["id"] in self._slots or order["id"] in self._outbox.kept:
                close_all(own)
                self._outbox.say({"m": "error", "detail": f"{order['id']} was ordered twice"})
            elif self.stopping:
                self._refuse_stopping(order, own)
            elif order.get("flag") is not None and not self._flags.held:
                close_all(own)
                self.room.lost([order])  # with that memory's descriptor
            else:
                self.room.unarrived.pop(order["id"], None)
                self._slots.add(order, own)

    def start_some(self, orders: List[Any], fds: List[int]) -> None:
        """The same, of orders whose last descriptors were lost on the way: these wait until there is room for them."""
        try:
            count, used = count_arrived(orders, fds)
        except Malformed as error:
            self._refuse_malformed(orders, fds, error)
            return
        close_all(fds[used:])
        self.start(orders[:count], fds[:used])
        if self.stopping:
            for order in orders[count:]:
                self._refuse_stopping(order, [])
        else:
            self.room.lost(orders[count:])

    def receivable(self) -> int:
        """How many descriptors may come with the next message."""
        return self.room.receivable()

    def stop(self, ids: Iterable[str], reason: str, grace_seconds: Optional[float]) -> None:
        """Ends jobs, started or not."""
        wanted = set(ids)
        for name in wanted:
            job = self._by_id.get(name)
            if job is not None:
                grace = job.grace_seconds if grace_seconds is None else grace_seconds
                self.reaper.stop(job, reason=reason, grace_seconds=grace)
        for order, own in [*self._slots.remove(wanted), *self.room.give_up(wanted)]:
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
        """Starts all whose turn it is, and for which there is room; the jobs that run."""
        while self.room.ready:
            self._start_some()
        return [job.started() for job in self.jobs.values()]

    def waiting(self) -> List[str]:
        """The orders that have not started."""
        return [*self._slots.waiting(), *self.room.unarrived]

    # What the parts tell.

    def job_started(self, job: Job, order: Order) -> None:
        """A job runs: watch it."""
        if not self.jobs:
            self.reaper.begin()
        self.jobs[job.pid] = job
        self._by_id[job.id] = job
        self._watch.add_job(job)
        timeout = order["timeout"]
        if timeout is not None:
            job.deadline = self._timers.at(self._clock() + timeout, lambda: self._timed_out(job))
        self._outbox.started(job.started())
        self.link.report_soon()

    def job_ended(self, end: End) -> None:
        """A job is over, or never was."""
        job = self._by_id.pop(end["id"], None)
        if job is not None:
            self._watch.remove_job(job)
        urgent = not self._slots.leave(end["id"])
        self._outbox.ended(end, urgent=urgent)
        if not urgent:
            self.link.report_soon()
        self.room.freed()

    def _order_again(self) -> None:
        self.link.session.order_again()

    def _exited_now(self, job: Job) -> None:
        self._exited.append(job)

    def _silent_log_closed(self, job: Job) -> None:
        self.reaper.log_closed(job)

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
        for order, own in [*self._slots.remove(None), *self.room.give_up(None)]:
            self._refuse_stopping(order, own)
        for job in list(self.jobs.values()):
            grace = min(job.grace_seconds, self._stop_grace_seconds)
            self.reaper.stop(job, reason=protocol.INTERRUPTED, grace_seconds=grace)

    def _give_up(self) -> None:
        self._over = True

    def _refuse_stopping(self, order: Order, fds: List[int]) -> None:
        self.starter.refuse(order, fds, reason=protocol.INTERRUPTED, detail="the executor was stopping")

    def _refuse_malformed(self, orders: List[Any], fds: List[int], error: Malformed) -> None:
        close_all(fds)
        for order in orders:
            if isinstance(order, dict) and isinstance(order.get("id"), str) and order["id"] not in self._by_id:
                known: Any = {"id": order["id"], "logs": 2 if order.get("logs") == 2 else 1}
                self.starter.refuse(known, [], reason=protocol.SPAWN_FAILED, detail=f"malformed order: {error}")
        self._outbox.say({"m": "error", "detail": str(error)})
