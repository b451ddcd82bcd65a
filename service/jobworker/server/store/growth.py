"""How long the logs of running jobs are meanwhile: what their batches take would else be known at their ends alone.
Looks each second at those that have run for as long, in a thread, and at nothing while no job runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from jobworker.server.model import BatchHeader, LogStream
from jobworker.server.slices import Slices, with_rests
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.layout import log_name
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.stored import log_bytes
from jobworker.server.store.syncer import ThreadSyncer
from jobworker.server.telemetry.observe import Observer

_PAUSE_SECONDS = 1.0
_RESTS = 20  # times as long as a look took is the pause after it, at the least
_SEPARATE = (LogStream.STDOUT, LogStream.STDERR)

_Found = list[tuple[ActiveBatch, int, int]]


class Growth(Observer):
    """An Observer, which is woken by jobs that may run."""

    def __init__(
        self,
        *,
        batches: Batches,
        ledger: Ledger,
        syncer: ThreadSyncer,
        slices: Slices,
        grown: Callable[[str], object],
        clock: Callable[[], float],
    ) -> None:
        """`grown` is told of each user whose running jobs were looked at. `clock` is monotonic."""
        self._batches = batches
        self._accounts = ledger.accounts
        self._syncer = syncer
        self._slices = slices
        self._grown = grown
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def batch_recovered(self, header: BatchHeader, job_count: int) -> None:  # noqa: ARG002
        self._wake()

    def jobs_ordered(self, header: BatchHeader, indexes: Sequence[int], at: int) -> None:  # noqa: ARG002
        self._wake()

    async def close(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        before: dict[ActiveBatch, set[int]] = {}
        pause = _PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause)
            running: dict[ActiveBatch, set[int]] = {}
            async for batch in self._slices.each(tuple(self._batches.active.values())):
                if batch.visible.running:
                    running[batch] = set(batch.visible.running)
            if not running:
                return
            wanted = [(batch, jobs & before[batch]) for batch, jobs in running.items() if batch in before]
            began = self._clock()
            if any(jobs for _, jobs in wanted):
                await self._look(wanted)
            pause = max(_PAUSE_SECONDS, _RESTS * (self._clock() - began))
            before = running

    async def _look(self, wanted: list[tuple[ActiveBatch, set[int]]]) -> None:
        found: _Found = []
        await self._syncer.run(lambda: found.extend(_lengths(wanted)))
        async for batch, index, length in self._slices.each(found):
            batch.note_growth(index, length)
        for batch, _ in wanted:
            if not batch.is_over:
                self._accounts.note(batch)
        for user in {batch.header.user for batch, _ in wanted}:
            self._grown(user)


def _lengths(wanted: list[tuple[ActiveBatch, set[int]]]) -> _Found:
    found: _Found = []
    for batch, jobs in with_rests(wanted):
        folder, count = batch.folder, batch.job_count
        for index in with_rests(jobs):
            length = log_bytes(f"{folder}/{log_name(index, LogStream.MERGED, count)}")
            if length is None:
                length = sum(log_bytes(f"{folder}/{log_name(index, stream, count)}") or 0 for stream in _SEPARATE)
            found.append((batch, index, length))
    return found
