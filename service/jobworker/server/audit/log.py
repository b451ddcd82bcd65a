"""The audit log while the service runs: lines gather while one group is written and synced, and whoever waits for one
is told when its group is on disk. Knows no calls.

A disk that fails or is full costs lines, and no answer: what was to be told has happened. They are counted, `problem`
says why, and a line says how many as soon as lines can be written again. A disk that does not answer at all is not
waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from jobpki.auditfile import AuditFile, Storage
from jobworker.server.serialthread import SerialThread
from jobworker.server.telemetry.log import Log

LOST = "audit.lost"
_GROUP_MOST = 500  # lines; some 250 KB
_WAITING_MOST = 20_000
# What may wait for its sync does so for this long; and after a failure this long passes until the next try.
SYNC_SECONDS = 1.0
_RETRY_SECONDS = 5.0
# Syncs take milliseconds. A disk that takes longer than this is not waited for.
_SLOW_SECONDS = 10.0

Event = Mapping[str, object]


@dataclass(slots=True)
class _Entry:
    event: Event
    sync: bool
    told: asyncio.Future[None]

    def tell(self) -> None:
        if not self.told.done():
            self.told.set_result(None)


class AuditLog:
    """`append` on the event loop; `close` at the end."""

    def __init__(
        self,
        folder: str,
        *,
        storage: Storage,
        max_bytes: int,
        files: int,
        log: Log,
        lost: Callable[[int], object],
        clock_ns: Callable[[], int],
        slow_seconds: float = _SLOW_SECONDS,
    ) -> None:
        """
        Args:
            folder: it lies in.
            lost: told how many lines more could not be written.
            clock_ns: Unix nanoseconds.

        Raises:
            OSError: it cannot be opened.
            ThreadsError: its thread could not be started.
        """
        self.problem: str | None = None  # why lines are not on disk now
        self._file = AuditFile(
            folder, storage=storage, max_bytes=max_bytes, files=files, time=lambda: _time(clock_ns())
        )
        if self._file.torn_bytes:
            log.warning("the end of the audit log was torn by a crash, and closed", bytes=self._file.torn_bytes)
        self._log = log
        self._lost = lost
        self._clock_ns = clock_ns
        self._slow_seconds = slow_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = SerialThread(name="audit")
        self._gathered: list[_Entry] = []
        self._unreported = 0  # lost, and no line says so yet
        self._writing: list[_Entry] | None = None
        self._stuck = self._closed = False
        self._sync_wanted = False
        self._timer: asyncio.TimerHandle | None = None

    def configure(self, *, max_bytes: int, files: int) -> None:
        """Other bounds of the file, from the next line on."""
        self._file.max_bytes, self._file.files = max_bytes, files

    def append(self, event: Event, *, sync: bool = True) -> asyncio.Future[None]:
        """Has a line written; the future is done when it is, and `sync`: on disk. Without it is there within
        SYNC_SECONDS. It is done as well when the line could not be written."""
        entry = _Entry({"time": _time(self._clock_ns()), **event}, sync, self._loop.create_future())
        if self._closed or len(self._gathered) >= _WAITING_MOST:
            self._lose(1)
            entry.tell()
            return entry.told
        self._gathered.append(entry)
        if self._stuck:
            entry.tell()
        self._go()
        return entry.told

    async def close(self, last: Event) -> None:
        """Writes what there is, and `last`. Not if the disk does not answer."""
        told = self.append(last)
        self._closed = True
        await told
        if self._timer is not None:
            self._timer.cancel()
        if not self._stuck:
            self._thread.close()
            self._file.close()

    # -- on the loop

    def _go(self) -> None:
        if self._writing is not None or not (self._gathered or self._sync_wanted):
            return
        group, self._gathered = self._gathered[:_GROUP_MOST], self._gathered[_GROUP_MOST:]
        sync = self._sync_wanted or any(entry.sync for entry in group)
        self._writing, self._sync_wanted = group, False
        slow = self._loop.call_later(self._slow_seconds, self._is_slow)
        unreported = self._unreported
        self._thread.do(
            partial(self._write, [entry.event for entry in group], unreported, sync),
            lambda synced, error: self._written(group, unreported, slow, bool(synced), error),
        )

    def _written(
        self, group: list[_Entry], unreported: int, slow: asyncio.TimerHandle, synced: bool, error: OSError | None
    ) -> None:
        slow.cancel()
        self._writing, self._stuck = None, False
        if error is None:
            self._unreported -= unreported
            self._set_problem(None)
        else:
            self._lose(len(group))
            self._set_problem(f"audit lines cannot be written: {error.strerror or error}")
        for entry in group:
            entry.tell()
        if not synced and self._timer is None:
            self._timer = self._loop.call_later(SYNC_SECONDS if error is None else _RETRY_SECONDS, self._sync_soon)
        self._go()

    def _sync_soon(self) -> None:
        self._timer, self._sync_wanted = None, True
        self._go()

    def _is_slow(self) -> None:
        self._stuck = True
        self._set_problem(f"audit lines are not on disk: it has not answered for {self._slow_seconds:g} s")
        for entry in (*(self._writing or ()), *self._gathered):
            entry.tell()

    def _lose(self, count: int) -> None:
        self._unreported += count
        self._lost(count)

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            self._log.error("audit", problem=problem)
        elif problem is None and self.problem is not None:
            self._log.info("the audit log is written again")
        self.problem = problem

    # -- the thread

    def _write(self, events: list[Event], lost: int, sync: bool) -> bool:
        """Whether all is on disk by now."""
        if lost:
            events = [{"time": _time(self._clock_ns()), "what": LOST, "count": lost}, *events]
        self._file.append(events, sync=sync or lost > 0)
        return self._file.synced


def _time(ns: int) -> str:
    """RFC 3339, in UTC, with microseconds."""
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%S}.{ns // 1000 % 1_000_000:06d}Z"
