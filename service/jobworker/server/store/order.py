"""Finished batches in the order in which they ended, the oldest first, without looking at all of them.

Their folders are named after their times, so they come in the order of their ids at no cost. A batch ends after the
time in its id: what has been looked at may go first once the ids have come so far. One whose id is ahead of its end, as
a client's clock may be, has its place by its id.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from jobworker.server.ids import CorrelationId, is_id
from jobworker.server.store.layout import Layout, sorted_names


def oldest_first(
    layout: Layout, users: Iterable[str], ended_at: Callable[[str], tuple[float, float] | None]
) -> Iterator[tuple[float, str, str]]:
    """Ends, users and folders. `ended_at` gives a folder's end in Unix seconds, and its place among those that ended at
    the same time; None: it is gone. Blocks."""
    waiting: list[tuple[float, float, str, str]] = []
    for id_at, user, folder in heapq.merge(*[_by_id(layout, user) for user in users]):
        while waiting and waiting[0][0] <= id_at:
            yield _next(waiting)
        found = ended_at(folder)
        if found is not None:
            heapq.heappush(waiting, (max(found[0], id_at), found[1], user, folder))
    while waiting:
        yield _next(waiting)


def _next(waiting: list[tuple[float, float, str, str]]) -> tuple[float, str, str]:
    ended, _, user, folder = heapq.heappop(waiting)
    return ended, user, folder


def _by_id(layout: Layout, user: str) -> Iterator[tuple[float, str, str]]:
    root = layout.user_root(user)
    for day in sorted_names(root):
        for minute in sorted_names(f"{root}/{day}"):
            for name in sorted_names(f"{root}/{day}/{minute}"):
                if is_id(name):
                    yield CorrelationId(name).unix_ms / 1000, user, f"{root}/{day}/{minute}/{name}"
