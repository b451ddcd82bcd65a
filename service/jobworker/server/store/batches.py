"""Finds batches by their ids, and lists them. Unfinished ones are in memory; finished ones are found by the path that
follows from user and id, so it costs the same with one stored batch or a million."""

from __future__ import annotations

import heapq
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice, takewhile

from jobworker.server.errors import DamagedError, InvalidRequestError, NotFoundError, invalid
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchView
from jobworker.server.slices import Slices
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batchfilter import BatchFilter
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.layout import Layout, sorted_names

_CACHED_BATCHES = 64
_CACHED_JOBS = 1_000_000
# A page looks at so many batches at the most, however few of them fit the filter.
_PAGE_SCAN = 1000


class Batches:
    """All batches of the service."""

    def __init__(self, *, layout: Layout, report: Callable[[str, str], object]) -> None:
        """`report(path, problem)` is told of files that cannot be read."""
        self._layout = layout
        self._report = report
        self.active: dict[CorrelationId, ActiveBatch] = {}  # unfinished ones, changed by `add` and `remove` alone
        self._unfinished: Counter[str] = Counter()  # batches by user
        self._open: Counter[str] = Counter()  # jobs of these that are not final
        self._cache: OrderedDict[str, FinishedBatch] = OrderedDict()

    def add(self, batch: ActiveBatch) -> None:
        """An unfinished batch is there from now on."""
        self.active[batch.header.correlation_id] = batch
        if not batch.complete:
            self._count(batch, 1, batch.open_count)

    def remove(self, batch: ActiveBatch) -> None:
        """It is finished, and lies with the others; or it never was. Again is fine."""
        if self.active.pop(batch.header.correlation_id, None) is not None and not batch.complete:
            self._count(batch, -1, -batch.open_count)

    def changed(self, batch: ActiveBatch, more_open: int) -> None:
        """So many more of its jobs are recorded as not final than before."""
        if more_open:
            self._count(batch, 0, more_open)

    def completed(self, batch: ActiveBatch) -> None:
        """Each of its jobs became final, and that durable."""
        self._count(batch, -1, 0)

    def _count(self, batch: ActiveBatch, batches: int, jobs: int) -> None:
        user = batch.header.user
        self._open[user] += jobs
        self._unfinished[user] += batches
        if not self._unfinished[user]:
            del self._unfinished[user], self._open[user]

    def unfinished(self) -> list[ActiveBatch]:
        """Those that have jobs that are not final; of the others the folders are about to be moved."""
        return [batch for batch in self.active.values() if not batch.complete]

    def unfinished_of(self, user: str) -> tuple[int, int]:
        """How many unfinished batches a user has, and how many jobs of them are not final."""
        return self._unfinished[user], self._open[user]

    def find(self, correlation_id: CorrelationId, *, user: str | None) -> ActiveBatch | FinishedBatch:
        """The batch of an id, if it is the user's; None is anyone's.

        Raises:
            NotFoundError: there is none, or it is another's.
            DamagedError: it is there, and cannot be read.
        """
        batch = self.active.get(correlation_id)
        if batch is not None and user in (None, batch.header.user):
            return batch
        for owner in [user] if user is not None else self._layout.users():
            try:
                finished = self._opened(self._layout.finished(owner, correlation_id))
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
            if finished is not None:
                return finished
        raise NotFoundError(f"there is no batch {correlation_id}")

    async def list(
        self, *, user: str | None, wanted: BatchFilter, page_size: int, page_token: str, slices: Slices
    ) -> tuple[list[BatchView], str]:
        """A page of batches, newest first (by the time in their ids), and the token of the next page. The ids and times
        of `wanted` bound what is looked at.

        Raises:
            InvalidRequestError: the token is not one that this gave, or no user can be called so.
        """
        if user is not None:
            try:
                self._layout.user_root(user)
            except ValueError:
                raise invalid("user", "is not a user's name") from None
        before = wanted.behind
        if page_token:
            try:
                token = CorrelationId.parse(page_token)
                _ = token.time  # a time that no listing can have given
            except (InvalidRequestError, ValueError):
                raise invalid("page_token", "is not a token that a listing gave") from None
            before = min(before, token)
        page: list[BatchView] = []
        last = ""
        active = list(self.active.items())

        # Folders of thousands are listed and sorted on the way.
        def scan() -> list[tuple[str, str]]:
            found = takewhile(lambda one: one[0] >= wanted.first, self._newest(active, user, before))
            return list(islice(found, _PAGE_SCAN + 1))

        newest = await slices.in_thread(scan)
        async for scanned, (name, owner) in slices.each(enumerate(newest)):
            if len(page) == page_size or scanned == _PAGE_SCAN:
                return page, last
            last = name
            try:
                batch = self.find(CorrelationId(name), user=owner)
            except (NotFoundError, DamagedError):
                continue  # it was removed meanwhile, or was reported as damaged
            if wanted.takes(batch):
                page.append(batch)
        return page, ""

    def _newest(
        self, unfinished: Iterable[tuple[str, ActiveBatch]], user: str | None, before: str
    ) -> Iterator[tuple[str, str]]:
        """(id, owner) in falling order, each once. Any thread."""
        active = sorted(
            ((i, b.header.user) for i, b in unfinished if i < before and user in (None, b.header.user)), reverse=True
        )
        owners = [user] if user is not None else self._layout.users()
        sources: list[Iterator[tuple[str, str]]] = [iter(active)]
        sources += [self._stored(owner, before) for owner in owners]
        previous = ""
        for found in heapq.merge(*sources, reverse=True):
            if found[0] != previous:
                previous = found[0]
                yield found

    def _stored(self, owner: str, before: str) -> Iterator[tuple[str, str]]:
        root = self._layout.user_root(owner)
        bound = _folder_of(before)
        for day in sorted_names(root, reverse=True):
            if day > bound[:10]:
                continue
            for minute in sorted_names(f"{root}/{day}", reverse=True):
                if f"{day}/{minute}" > bound:
                    continue
                for name in sorted_names(f"{root}/{day}/{minute}", reverse=True):
                    if name < before:
                        yield name, owner

    def _opened(self, folder: str) -> FinishedBatch | None:
        batch = self._cache.get(folder)
        if batch is not None and os.path.exists(folder):
            self._cache.move_to_end(folder)
            return batch
        self._cache.pop(folder, None)  # it was removed meanwhile
        try:
            batch = FinishedBatch(folder)
        except DamagedError as e:
            self._report(e.path, str(e))
            raise
        self._cache[folder] = batch
        jobs = sum(b.job_count for b in self._cache.values())
        while len(self._cache) > 1 and (len(self._cache) > _CACHED_BATCHES or jobs > _CACHED_JOBS):
            _, old = self._cache.popitem(last=False)
            jobs -= old.job_count
            old.close()
        return batch

    def close(self) -> None:
        """Gives descriptors back."""
        for finished in self._cache.values():
            finished.close()
        for active in self.active.values():
            active.close()


def _folder_of(bound: str) -> str:
    """The day and minute of what sorts like an id, or begins as one; behind all where there is no such time."""
    digits = bound.partition("~")[0].replace("-", "")[:12].ljust(12, "f")
    try:
        return f"{datetime.fromtimestamp(int(digits, 16) / 1000, UTC):%Y-%m-%d/%H%M}"
    except (ValueError, OverflowError):
        return "~"
