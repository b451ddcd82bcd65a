"""Has the batches' folders written from what is durable in the commit log: in a thread, each batch's changes of a while
at once, and again where it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from jobworker.server.serialthread import SerialThread
from jobworker.server.store.accounts import Accounts
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.batchfiles import BatchFiles, Update
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import Layout
from jobworker.server.telemetry.log import Log

T = TypeVar("T")

_RETRY_SECONDS = 1.0
# What changes is written together after a while: a quick batch's whole folder at once.
_GATHER_SECONDS = 0.05
_GATHER_BYTES = 1 << 18


class Projector:
    """On the event loop, but for its thread."""

    def __init__(self, *, layout: Layout, batches: Batches, accounts: Accounts, disk: Disk, log: Log) -> None:
        self.finished: Callable[[ActiveBatch], object] = lambda _: None
        self._layout = layout
        self._batches = batches
        self._accounts = accounts
        self._log = log
        self._thread = SerialThread(name="batch-files")
        self._files = BatchFiles(disk, layout.parents)
        self._writing: set[ActiveBatch] = set()
        self._changed: set[ActiveBatch] = set()  # of these, those that changed meanwhile
        self._gathered: dict[ActiveBatch, None] = {}  # to be written soon, in this order
        self._soon: asyncio.TimerHandle | None = None
        self._failing: dict[ActiveBatch, asyncio.TimerHandle] = {}
        self._forgotten: set[ActiveBatch] = set()  # of those that are being written
        self._waiting: list[tuple[dict[ActiveBatch, int], Callable[[], object]]] = []
        self._closing = False

    def write(self, batch: ActiveBatch) -> None:
        """Has a batch's folder written soon as it is to be then; at once, moved too, and told to `finished`, when every
        job is final."""
        if batch in self._writing:
            self._changed.add(batch)
        elif batch in self._failing:
            return
        elif batch.complete or len(batch.tail) >= _GATHER_BYTES:
            self._begin(batch)
        else:
            self._gathered[batch] = None
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._write_gathered)

    def forget(self, batch: ActiveBatch) -> None:
        """The batch never was: nothing more is written of it."""
        self._forgotten.add(batch)
        self._changed.discard(batch)
        self._gathered.pop(batch, None)
        if (again := self._failing.pop(batch, None)) is not None:
            again.cancel()
        if batch not in self._writing:
            self._forgotten.discard(batch)

    def when_written(self, then: Callable[[], object]) -> None:
        """Calls it, now or later, once all that is durable by now is in the batches' files."""
        active = self._batches.active.values()
        self._waiting.append(({b: b.written + len(b.tail) for b in active if b.tail or b.content}, then))
        self._write_gathered()
        self._look()

    def do(self, work: Callable[[], T], done: Callable[[T | None, OSError | None], object]) -> None:
        """Has another work done in the same thread, behind what is under way; see SerialThread."""
        self._thread.do(work, done)

    async def close(self) -> None:
        """Writes what there is, as far as it goes."""
        self._closing = True
        self._write_gathered()
        for handle in self._failing.values():
            handle.cancel()
        while self._writing:
            passed = asyncio.Event()
            self._thread.do(lambda: None, partial(_set, passed))
            await passed.wait()
        self._thread.do(self._files.close, lambda _, __: None)
        self._thread.close()

    def _write_gathered(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        for batch in list(self._gathered):
            self._begin(batch)

    def _begin(self, batch: ActiveBatch) -> None:
        self._gathered.pop(batch, None)
        self._writing.add(batch)
        folder, lines, written, place = batch.folder, bytes(batch.tail), len(batch.tail), None
        if batch.complete:
            place = batch.moving_to = self._layout.finished(batch.header.user, batch.header.correlation_id)
        update = Update(
            folder=folder,
            content=batch.content,
            lines=lines,
            at=batch.written,
            place=place,
            closing=batch.close_results,
        )

        def done(_: Any, error: OSError | None) -> None:
            self._writing.discard(batch)
            changed = batch in self._changed
            self._changed.discard(batch)
            if batch in self._forgotten:
                self._forgotten.discard(batch)
                return
            if error is not None:
                if place is not None:
                    batch.tell_finished()
                self._failed(batch, error)
                return
            batch.note_written(written)
            if place is not None:
                batch.moved(place)
                batch.tell_finished()
                self._accounts.finish(batch)
                self._batches.remove(batch)
                batch.close()
                self.finished(batch)
            elif changed and (self._closing or self._waiting):
                self._begin(batch)
            elif changed:
                self.write(batch)
            if self._waiting:
                self._look()

        self._thread.do(lambda: self._files.apply(update), done)

    def _failed(self, batch: ActiveBatch, error: OSError) -> None:
        self._log.error(
            "a batch's files cannot be written yet", correlation_id=batch.header.correlation_id, problem=str(error)
        )
        if not self._closing:
            again = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._again, batch)
            self._failing[batch] = again

    def _again(self, batch: ActiveBatch) -> None:
        del self._failing[batch]
        self._begin(batch)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for missing, then in waiting:
            left = {batch: size for batch, size in missing.items() if batch.content or batch.written < size}
            if left:
                self._waiting.append((left, then))
            else:
                then()


def _set(event: asyncio.Event, _: object, __: OSError | None) -> None:
    event.set()
