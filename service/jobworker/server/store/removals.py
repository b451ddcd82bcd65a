"""Has the commit log say that finished batches are removed, before they are: what it still holds of them would make
them anew, and what it says of how much there is would be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from jobworker.server.store.frames import gone_frame
from jobworker.server.store.layout import Layout
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.replace import remove, replace
from jobworker.server.store.stored import Stored

T = TypeVar("T")

_LOOK_SECONDS = 0.1  # how often one who waits for a commit looks whether the service ends


class Reason(StrEnum):
    """Why a batch is removed."""

    AGE = "age"
    USER = "user"  # its user's batches take too much
    TOTAL = "total"  # all batches do


@dataclass(frozen=True, slots=True)
class Removal:
    """A finished batch that is to be removed. It ended so many seconds ago."""

    user: str
    correlation_id: str
    folder: str
    stored: Stored
    reason: Reason
    age_seconds: float


class Removals:
    """Made on the event loop."""

    def __init__(self, *, ledger: Ledger, layout: Layout) -> None:
        self._ledger = ledger
        self._layout = layout
        self._loop = asyncio.get_running_loop()

    def record(self, removals: Sequence[Removal], is_ending: Callable[[], bool]) -> list[Removal]:
        """Returns those that may be removed now; none where the service is ending. Blocks; any thread but the
        loop's."""
        return self._told(partial(self._record, removals), is_ending) or []

    def removed(self, removals: Sequence[Removal]) -> None:
        """Their folders are out of sight. Any thread but the loop's."""
        self._loop.call_soon_threadsafe(self._removed, removals)

    def counted(self, finished: dict[str, Stored], is_ending: Callable[[], bool]) -> None:
        """What all finished batches take, by user, but for those that this life of the server saw finish. Told once, by
        any thread but the loop's; returns when it is known everywhere."""
        self._told(partial(self._counted, finished), is_ending)

    def _told(self, ask: Callable[[Callable[[T], object]], object], is_ending: Callable[[], bool]) -> T | None:
        """What the loop's side answers, None where the service is ending."""
        told: SimpleQueue[T] = SimpleQueue()
        self._loop.call_soon_threadsafe(ask, told.put)
        while not is_ending():
            with contextlib.suppress(Empty):
                return told.get(timeout=_LOOK_SECONDS)
        return None

    # -- on the loop

    def _record(self, removals: Sequence[Removal], done: Callable[[list[Removal]], object]) -> None:
        ledger = self._ledger
        if ledger.problem is not None:
            self._let(removals, done)
            return
        # Now, not when it is durable: totals that are recorded behind it are without them.
        for removal in removals:
            ledger.accounts.remove(removal.correlation_id, removal.user, removal.stored)

        def told(error: OSError | None) -> None:
            if error is not None:
                for removal in removals:
                    ledger.accounts.restore(removal.correlation_id, removal.user, removal.stored)
            done([] if error is not None else list(removals))

        frames = [gone_frame(removal.correlation_id, removal.user, removal.stored) for removal in removals]
        ledger.append(b"".join(frames), told)

    def _let(self, removals: Sequence[Removal], done: Callable[[list[Removal]], object]) -> None:
        """A full disk is to be emptied though nothing can be recorded: of batches that the log says nothing about. If
        the server dies before it is written again, the next one counts."""
        ledger = self._ledger
        free = [removal for removal in removals if not ledger.holds(removal.correlation_id)]
        for removal in free:
            ledger.accounts.remove(removal.correlation_id, removal.user, removal.stored)
        ledger.files.do(lambda: replace(self._layout.recount_file, b""), lambda _, __: done(free))

    def _removed(self, removals: Sequence[Removal]) -> None:
        for removal in removals:
            self._ledger.accounts.removed(removal.correlation_id)

    def _counted(self, finished: dict[str, Stored], done: Callable[[bool], object]) -> None:
        def told(error: OSError | None) -> None:
            if error is None:
                self._ledger.files.do(lambda: remove(self._layout.recount_file), lambda _, __: None)

        self._ledger.accounts.counted(finished)
        self._ledger.append_base(told)
        done(True)
