"""Checks passwords in a few threads of its own: each certificate has its turn, and each check a time limit.

The threads are there from the start, and a check needs no other (jobpki/passwords.py): where the machine gives no more
threads, logins go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue

from jobpki.passwords import password_matches
from jobworker.server.errors import ExhaustedError, UnavailableError
from jobworker.server.identity.fairqueue import FairQueue
from jobworker.server.threads import ThreadsError, started

# A check takes some 0.17 s of a processor and 64 MiB: two at a time keep both small.
_THREADS = 2
_CHECK_SECONDS = 0.17
_OF_ONE_MAX = 4  # of one certificate at a time, those that run included
# Two threads are done with so many in some 20 s; nobody's login waits longer than that.
_WAITING_MAX = 256
# Some sixty times what it takes: on a processor that many share it is slow, beyond this it is stuck.
_LIMIT_SECONDS = 10.0


class _Check:
    """A password to be checked. `finished` is set by the thread that does it, all else on the loop."""

    def __init__(self, password: str, password_hash: str, name: str, future: asyncio.Future[bool]) -> None:
        self.password = password
        self.password_hash = password_hash
        self.name = name
        self.future = future
        self.finished = False
        self.overdue = False
        self.timer: asyncio.TimerHandle | None = None


class PasswordChecker:
    """On the event loop's thread alone. `close` ends it; it waits for no check."""

    def __init__(
        self,
        *,
        threads: int = _THREADS,
        waiting_max: int = _WAITING_MAX,
        limit_seconds: float = _LIMIT_SECONDS,
        on_problem: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`on_problem` is told in one line of a check that takes longer than `limit_seconds`.

        Raises:
            ThreadsError: the threads could not be started.
        """
        self.overdue = 0  # checks that run, and have run for longer than they may
        self._waiting_max = waiting_max
        self._limit_seconds = limit_seconds
        self._on_problem = on_problem
        self._queue: FairQueue[_Check] = FairQueue()
        self._running: Counter[str] = Counter()  # by certificate, those that nobody waits for any more included
        self._threads = self._idle = threads
        self._retry_after_seconds = max(1.0, waiting_max * _CHECK_SECONDS / threads)
        # As many checks as threads are idle: one that is in it is on its way, and waits for none.
        self._work: SimpleQueue[tuple[asyncio.AbstractEventLoop, _Check] | None] = SimpleQueue()
        try:
            for number in range(threads):
                started(self._run, name=f"password_{number}")
        except ThreadsError:
            self.close()
            raise

    @property
    def waiting(self) -> int:
        """How many checks wait for a thread."""
        return len(self._queue)

    async def matches(self, password: str, password_hash: str, *, name: str, subject: str) -> bool:
        """Whether the password has this hash. `name` is of the certificate whose turn it takes, `subject` whose that is
        (google.rpc.QuotaFailure).

        Raises:
            ExhaustedError: too many are being checked.
            UnavailableError: it could not be told within the time limit, or for want of memory.
        """
        if self._running[name] + self._queue.waiting(name) >= _OF_ONE_MAX:
            raise ExhaustedError("too many logins at a time", subject=subject, retry_after_seconds=1.0)
        loop = asyncio.get_running_loop()
        check = _Check(password, password_hash, name, loop.create_future())
        if self._idle:
            self._begin(check)
        elif self.overdue == self._threads:
            raise self._stuck()
        else:
            self._wait(check)
        try:
            return await check.future
        finally:
            self._queue.remove(name, check)  # whose client has left

    def close(self) -> None:
        """Ends the threads, each when its check is done; who waits is told that the service stops."""
        while (check := self._queue.take()) is not None:
            _refuse(check, UnavailableError("the service stops", retry_after_seconds=1.0))
        for _ in range(self._threads):
            self._work.put(None)

    # -- on the loop

    def _wait(self, check: _Check) -> None:
        if len(self._queue) >= self._waiting_max:
            full = ExhaustedError(
                "too many logins are being checked", subject="service", retry_after_seconds=self._retry_after_seconds
            )
            # Who has most waiting gives way, and not who comes last: else one could fill the queue for all.
            surplus = self._queue.take_surplus(check.name)
            if surplus is None:
                raise full
            _refuse(surplus, full)
        self._queue.put(check.name, check)

    def _begin(self, check: _Check) -> None:
        loop = check.future.get_loop()
        self._idle -= 1
        self._running[check.name] += 1
        check.timer = loop.call_later(self._limit_seconds, self._is_late, check)
        self._work.put((loop, check))

    def _is_late(self, check: _Check) -> None:
        if check.finished:  # the loop was late, and not the check
            return
        check.overdue = True
        self.overdue += 1
        late = f"a password could not be checked within {self._limit_seconds:g} s"
        self._on_problem(f"{late}; {self.overdue} of {self._threads} threads are stuck")
        _refuse(check, UnavailableError(late, retry_after_seconds=self._retry_after_seconds))
        if self.overdue == self._threads:
            while (waiting := self._queue.take()) is not None:
                _refuse(waiting, self._stuck())

    def _ended(self, check: _Check, result: bool | None, error: Exception | None) -> None:
        self._idle += 1
        self._running[check.name] -= 1
        if not self._running[check.name]:
            del self._running[check.name]
        if check.timer is not None:
            check.timer.cancel()
        self.overdue -= check.overdue
        if error is not None:
            _refuse(check, error)
        elif not check.future.done():
            check.future.set_result(bool(result))
        if (following := self._queue.take()) is not None:
            self._begin(following)

    def _stuck(self) -> UnavailableError:
        return UnavailableError(
            "no password can be checked: those that are being checked do not end",
            retry_after_seconds=self._retry_after_seconds,
        )

    # -- the threads

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            loop, check = work
            result: bool | None = None
            error: Exception | None = None
            try:
                result = password_matches(check.password, check.password_hash)
            except MemoryError:
                error = UnavailableError("there is no memory to check a password in", retry_after_seconds=1.0)
            except Exception as problem:
                error = problem
            check.finished = True
            try:
                loop.call_soon_threadsafe(self._ended, check, result, error)
            except RuntimeError:  # the loop has ended meanwhile
                return


def _refuse(check: _Check, error: Exception) -> None:
    if not check.future.done():
        check.future.set_exception(error)
