"""Who waits, by whom they wait for: each in turn, however many one of them has waiting. Knows nothing of the work."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue for each name; `take` goes from one name to the next."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()  # none of them empty; the next one first
        self._length = 0

    def __len__(self) -> int:
        """How many wait, in all."""
        return self._length

    def waiting(self, name: str) -> int:
        """How many wait of one name."""
        return len(self._queues.get(name, ()))

    def put(self, name: str, item: T) -> None:
        """One more, behind those of the same name."""
        self._queues.setdefault(name, deque()).append(item)
        self._length += 1

    def take(self) -> T | None:
        """The first of the name whose turn it is; None when nobody waits."""
        if not self._queues:
            return None
        name, queue = next(iter(self._queues.items()))
        item = queue.popleft()
        self._queues.move_to_end(name)
        self._took(name, queue)
        return item

    def remove(self, name: str, item: T) -> None:
        """One that waits no longer; nothing when it does not wait."""
        queue = self._queues.get(name)
        if queue is not None and item in queue:
            queue.remove(item)
            self._took(name, queue)

    def take_surplus(self, name: str) -> T | None:
        """The last of the name that has most waiting, to make room for one of `name`; None when `name` would then be
        the one that has most."""
        greatest = max(self._queues, key=lambda other: len(self._queues[other]), default=None)
        if greatest is None or len(self._queues[greatest]) <= self.waiting(name) + 1:
            return None
        queue = self._queues[greatest]
        item = queue.pop()
        self._took(greatest, queue)
        return item

    def _took(self, name: str, queue: deque[T]) -> None:
        self._length -= 1
        if not queue:
            del self._queues[name]
