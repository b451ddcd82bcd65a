"""Removes finished batches, in a thread of its own, as `plan` says which. First it counts what all of them take, where
that is not known. It can be interrupted at any file.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from jobworker.server.clocks import Now
from jobworker.server.ids import is_id
from jobworker.server.model import BatchHeader, BatchState
from jobworker.server.slices import Slices, with_rests
from jobworker.server.store.ages import Ages
from jobworker.server.store.layout import Layout
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.plan import Keep, Plan, seconds
from jobworker.server.store.removals import Reason, Removal, Removals
from jobworker.server.store.stored import Stored, stored_in
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.observe import Observer
from jobworker.server.threads import started

_LONGEST_PAUSE_SECONDS = 3600.0
_SHORTEST_PAUSE_SECONDS = 1.0
_AT_ONCE = 64  # removals are recorded together
_COUNT_PIECE_SECONDS = 0.005
_COUNT_RESTS = 9  # times as long as its work is each pause of the count


@dataclass(slots=True)
class Removed:
    """What was removed in this life of the server, for each reason."""

    batches: Counter[Reason] = field(default_factory=Counter)
    bytes: Counter[Reason] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be removed now; `more` than these; all but for what it is `counting`."""

    removals: list[Removal]
    more: bool
    counting: bool


class Retention(Observer):
    """An Observer, from `begin` to `close`; `configure` takes effect at once."""

    def __init__(
        self,
        *,
        layout: Layout,
        keep: Keep,
        ledger: Ledger,
        now: Callable[[], Now],
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        """`clock` is monotonic."""
        self.keep = keep
        self.removed = Removed()
        self._layout = layout
        self._accounts = ledger.accounts
        self._removals = Removals(ledger=ledger, layout=layout)
        self._now = now
        self._clock = clock
        self._log = log
        self._ages = Ages(**seconds(now()))
        self._plan = Plan(layout=layout, accounts=self._accounts, ages=self._ages, now=now)
        self._stay: set[str] = set()  # batches that cannot be moved, in this life of the server
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Sweeps now; again several times within the time that batches are kept, and when there is too much."""
        self._thread = started(self._run, name="retention")

    def configure(self, keep: Keep) -> None:
        """Keeps others."""
        if keep != self.keep:
            self.keep = keep
            self._wanted.set()

    def close(self) -> None:
        """Ends a sweep within the file that it is at: what is left of a folder lies in the trash."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    async def planned(self, keep: Keep, *, most: int, slices: Slices) -> Planned:
        """What would be removed now if that were to be kept."""
        return await slices.in_thread(lambda: self._list(keep, most))

    def look(self, user: str) -> None:
        """A user has more than before: sweeps if that, or all, is too much. On hot paths."""
        if self._plan.is_over(self.keep, user):
            self._wanted.set()

    def batch_finished(
        self,
        header: BatchHeader,
        job_count: int,  # noqa: ARG002
        state: BatchState,  # noqa: ARG002
        started_at: int | None,  # noqa: ARG002
        ended_at: int | None,  # noqa: ARG002
    ) -> None:
        # Its results were written just now.
        self._ages.note(**seconds(self._now()))
        self.look(header.user)

    # -- the thread

    def _run(self) -> None:
        for name in os.listdir(self._layout.trash_root):  # of batches whose removal was recorded, and not done
            self._empty(f"{self._layout.trash_root}/{name}")
        if not self._accounts.known:
            self._count()
        while not self._closing.is_set():
            self._wanted.clear()
            keep = self.keep
            self._sweep(keep)
            # All that comes to be too much within it goes at once.
            if self._closing.wait(_SHORTEST_PAUSE_SECONDS):
                return
            self._wanted.wait(None if keep.seconds is None else min(keep.seconds / 10, _LONGEST_PAUSE_SECONDS))

    def _sweep(self, keep: Keep) -> None:
        before = self.removed.batches.total()
        self._ages.begin()
        try:
            for part in self._plan.parts(keep, self._stay):
                rested = iter(with_rests(part))
                while some := list(islice(rested, _AT_ONCE)):
                    if self._closing.is_set():
                        return
                    self._remove(some)
        except OSError as e:
            self._log.error("finished batches were not removed", path=e.filename, problem=e.strerror)
        if batches := self.removed.batches.total() - before:
            self._log.info("finished batches removed", batches=batches)

    def _remove(self, some: list[Removal]) -> None:
        graves, moved = [], []
        for removal in self._removals.record(some, self._closing.is_set):
            try:
                grave = self._layout.bury_finished(removal.folder)
            except OSError as e:
                self._stay.add(removal.correlation_id)
                self._log.error("a finished batch cannot be removed", path=removal.folder, problem=e.strerror)
                continue
            moved.append(removal)
            if grave is not None:
                graves.append(grave)
                self.removed.batches[removal.reason] += 1
                self.removed.bytes[removal.reason] += removal.stored.bytes
        self._removals.removed(moved)
        for grave in with_rests(graves):
            self._empty(grave)

    def _empty(self, folder: str) -> None:
        """Removes a folder, unless the service ends meanwhile; what cannot be removed stays for the next start."""
        for place, folders, names in with_rests(os.walk(folder, topdown=False)):
            for name in names:
                if self._closing.is_set():
                    return
                _quietly(os.unlink, f"{place}/{name}")
            for name in folders:
                _quietly(os.rmdir, f"{place}/{name}")
        _quietly(os.rmdir, folder)

    def _count(self) -> None:
        """At a small share of a CPU; a close has the next start begin anew."""
        _quietly(os.unlink, f"{self._layout.data}/stored_bytes")  # of versions before, which kept the sum in it
        found: dict[str, Stored] = {}
        began = self._clock()
        for folder in self._layout.finished_folders():
            user, _, _, name = folder.rsplit("/", 4)[1:]
            if is_id(name) and not self._accounts.is_own(name):
                found.setdefault(user, Stored()).add(stored_in(folder))
            worked = self._clock() - began
            if worked >= _COUNT_PIECE_SECONDS:
                if self._closing.wait(worked * _COUNT_RESTS):
                    return
                began = self._clock()
        self._removals.counted(found, self._closing.is_set)

    # -- any thread

    def _list(self, keep: Keep, most: int) -> Planned:
        found: list[Removal] = []
        counting = not self._accounts.known
        names = set(self._stay)
        for part in self._plan.parts(keep, names):
            for removal in with_rests(part):
                if len(found) == most:
                    return Planned(found, more=True, counting=counting)
                found.append(removal)
                names.add(removal.correlation_id)
        return Planned(found, more=False, counting=counting)


def _quietly(remove: Callable[[str], None], path: str) -> None:
    try:
        remove(path)
    except OSError:
        return
