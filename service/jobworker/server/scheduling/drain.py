"""Whether the service takes work. Told to stop, it takes no batches and starts no jobs, and goes on answering; that it
was told is on disk, so a server that is restarted meanwhile goes on draining, with the same deadline (deadline.py).

A server that is about to end with its executor (a pod that is deleted) drains too, and that is not kept: the next one
takes work."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from jobworker.server.clocks import Now
from jobworker.server.errors import UNREADABLE, PreconditionError, UnavailableError
from jobworker.server.scheduling.deadline import Deadline
from jobworker.server.store import replace as files
from jobworker.server.store.active import ActiveBatch
from jobworker.server.telemetry.log import Log

# What a client that submits to a draining service is told: it may be back by then.
_RETRY_SECONDS = 5.0
# What jobs may take to end once they were interrupted, grace and all, and their ends to be recorded.
_INTERRUPT_SECONDS = 30.0


class Phase(IntEnum):
    """Where the service is; the numbers are ServiceState's of `v1/admin.proto`."""

    SERVING = 1
    DRAINING = 2
    STOPPED = 3


class Work(Protocol):
    """Who starts and ends jobs."""

    @property
    def running(self) -> int: ...

    def submit(self, batch: ActiveBatch) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel_running(self, *, interrupt: bool = False) -> None: ...

    async def idle(self) -> None: ...

    def skip_queued(self, batch: ActiveBatch) -> None: ...


@dataclass(frozen=True, slots=True)
class Stop:
    """What the service was told; `deadline` is when running jobs are cancelled, None never."""

    deadline: Deadline | None = None
    cancel_queued: bool = False

    @classmethod
    def read(cls, record: dict[str, Any], now: Now) -> Stop:
        """Out of what `record` has made; what is not understood of it stays undone."""
        cancel_queued = record["cancel_queued"]
        try:
            return cls(Deadline.read(record, now), cancel_queued) if isinstance(cancel_queued, bool) else cls()
        except ValueError:
            return cls()

    def record(self, now: Now) -> dict[str, Any]:
        """For JSON."""
        deadline = {"deadline_ns": None} if self.deadline is None else self.deadline.record(now)
        return {**deadline, "cancel_queued": self.cancel_queued}


class Drain:
    """The one who may stop and start."""

    def __init__(
        self,
        *,
        path: str,
        work: Work,
        unfinished: Callable[[], Iterable[ActiveBatch]],
        now: Callable[[], Now],
        log: Log,
    ) -> None:
        """`path` is the file that is there while the service is told to stop; `unfinished` tells the batches."""
        self._path = path
        self._work = work
        self._unfinished = unfinished
        self._now = now
        self._log = log
        self._timer: asyncio.TimerHandle | None = None
        self._drained = False
        self._to_skip: deque[ActiveBatch] = deque()
        self._leaving = False
        self._stop = self._read()
        if self._stop is not None:
            log.warning("the service is stopped, as it was before", deadline_ns=self.deadline_ns)
            self._apply(self._stop)

    def _read(self) -> Stop | None:
        try:
            with open(self._path, "rb") as file:
                return Stop.read(json.loads(file.read()), self._now())
        except FileNotFoundError:
            return None
        except (OSError, *UNREADABLE) as e:
            # It was there because the service was told to stop: so much is known.
            self._log.error(
                "what the service was told cannot be read; it stays stopped", path=self._path, problem=str(e)
            )
            return Stop()

    @property
    def phase(self) -> Phase:
        """Where the service is now."""
        if self.serving:
            return Phase.SERVING
        # Who reads STOPPED finds every end, too. Nothing starts meanwhile, so it stays that way.
        if not self._drained:
            busy = self._work.running or self._to_skip or any(batch.settling for batch in self._unfinished())
            self._drained = not busy
        return Phase.STOPPED if self._drained else Phase.DRAINING

    @property
    def serving(self) -> bool:
        """Batches are taken and jobs started."""
        return self._stop is None and not self._leaving

    @property
    def deadline_ns(self) -> int | None:
        """When running jobs are cancelled, Unix nanoseconds as the clock goes now; None: no such time."""
        deadline = None if self._stop is None else self._stop.deadline
        return None if deadline is None else deadline.wall_ns(self._now())

    def admit(self) -> None:
        """Lets a new batch in.

        Raises:
            UnavailableError: the service drains.
            PreconditionError: it is stopped.
        """
        if self.serving:
            return
        if self._leaving or self.phase is Phase.DRAINING:
            raise UnavailableError("the service drains and takes no new batches", retry_after_seconds=_RETRY_SECONDS)
        raise PreconditionError("the service is stopped; an administrator can start it")

    def submit(self, batch: ActiveBatch) -> None:
        """Hands a new batch on; one that was on its way when the service was told to stop waits, or is skipped."""
        self._work.submit(batch)
        if self._stop is not None and self._stop.cancel_queued:
            self._skip_later([batch])

    def stop(self, *, deadline_seconds: float | None, cancel_queued: bool) -> None:
        """Takes no new batches and starts no jobs; again, it may shorten the deadline and skip what waits.

        Args:
            deadline_seconds: running jobs are cancelled then; 0 is at once, None: they may run to their end.
            cancel_queued: skip the jobs that wait, too.

        Raises:
            UnavailableError: it could not be recorded.
        """
        before = self._stop or Stop()
        now, deadline = self._now(), before.deadline
        if deadline_seconds is not None:
            wanted = Deadline.after(deadline_seconds, now)
            if deadline is None or wanted.due_ns < deadline.due_ns:
                deadline = wanted
        told = Stop(deadline, cancel_queued or before.cancel_queued)
        if told != self._stop:
            self._write(lambda: files.replace(self._path, json.dumps(told.record(now)).encode() + b"\n"))
            self._stop = told
            self._log.info(
                "told to stop",
                deadline_seconds=deadline_seconds,
                cancel_queued=cancel_queued,
                running=self._work.running,
            )
        self._apply(told)

    def start(self) -> None:
        """Takes work again.

        Raises:
            UnavailableError: it could not be recorded.
        """
        if self.serving:
            return
        if self._stop is not None:
            self._write(lambda: files.remove(self._path))
        self._stop, self._drained, self._leaving = None, False, False
        self.close()
        self._work.resume()
        self._log.info("told to start")

    def leave(self) -> None:
        """Takes no more work, for this process is to end. Queued jobs wait for the next server."""
        self._leaving = True
        self._work.pause()

    async def left(self, *, seconds: float) -> int:
        """Returns once no job runs: those that still do after so many seconds are interrupted, and their number is
        returned."""
        self._log.info("about to end: drains", seconds=seconds, running=self._work.running)
        try:
            async with asyncio.timeout(seconds):
                await self._work.idle()
        except TimeoutError:
            return await self._interrupt()
        return 0

    async def _interrupt(self) -> int:
        cut = self._work.running
        if not self._leaving:
            return 0  # an administrator started the service again
        self._log.warning("jobs are interrupted", running=cut)
        self._work.cancel_running(interrupt=True)
        try:
            async with asyncio.timeout(_INTERRUPT_SECONDS):
                await self._work.idle()
        except TimeoutError:
            self._log.error("jobs did not end in time", running=self._work.running)
        return cut

    def again(self) -> None:
        """What could not be recorded can be again."""
        if self._stop is not None:
            self._apply(self._stop)

    def close(self) -> None:
        """Ends the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as e:
            raise UnavailableError("this cannot be recorded now", retry_after_seconds=_RETRY_SECONDS) from e

    def _apply(self, told: Stop) -> None:
        self._work.pause()
        if told.cancel_queued:
            self._skip_later(self._unfinished())
        self._keep_deadline()

    def _skip_later(self, batches: Iterable[ActiveBatch]) -> None:
        if not self._to_skip:
            asyncio.get_running_loop().call_soon(self._skip_next)
        self._to_skip.extend(batches)

    def _skip_next(self) -> None:
        """One batch in a turn of the loop: there may be thousands, and others want answers meanwhile."""
        batch = self._to_skip.popleft()
        self._work.skip_queued(batch)  # what cannot be recorded is skipped when it can be again
        if self._to_skip:
            asyncio.get_running_loop().call_soon(self._skip_next)

    def _keep_deadline(self) -> None:
        self.close()
        deadline = None if self._stop is None else self._stop.deadline
        if deadline is None:
            return
        left = deadline.left_ns(self._now()) / 1e9
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._keep_deadline)
        elif self._work.running:
            self._log.info("the deadline has passed: running jobs are cancelled", running=self._work.running)
            self._work.cancel_running()
