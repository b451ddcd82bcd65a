"""Whose turn it is: of the orders of a batch, as many as it has slots; the others wait for an end. Pure."""

from collections import deque
from typing import Container, Deque, Dict, List, Optional, Set, Tuple

from .protocol import Order

Given = Tuple[Order, List[int]]  # with its descriptors


class BatchSlots:
    """An order is in here from `add` until it `leave`s or is removed: waiting, ready, or started."""

    def __init__(self) -> None:
        self.ready: Deque[Given] = deque()
        self._waiting: Dict[str, Deque[Given]] = {}  # by batch; none is empty
        self._at_work: Dict[str, int] = {}  # by batch: ready or started
        self._batch: Dict[str, str] = {}  # of each order that is ready or started
        self._held: Set[str] = set()  # that wait

    def __contains__(self, name: object) -> bool:
        return name in self._batch or name in self._held

    def waiting(self) -> List[str]:
        """The names of those that have not started."""
        return [*self._held, *(order["id"] for order, _ in self.ready)]

    def put_back(self, some: List[Given], *, last: bool) -> None:
        """They were ready, and could not be started yet: it is their turn next, or after all others'."""
        if last:
            self.ready.extend(some)
        else:
            self.ready.extendleft(reversed(some))

    def add(self, order: Order, fds: List[int]) -> None:
        """Takes an order in."""
        batch = order["id"].rpartition("/")[0]
        if self._at_work.get(batch, 0) < order["slots"]:
            self._make_ready(batch, (order, fds))
        else:
            self._held.add(order["id"])
            self._waiting.setdefault(batch, deque()).append((order, fds))

    def leave(self, name: str) -> bool:
        """An order is over: its place goes to the next of its batch. True: others of its batch still wait."""
        batch = self._batch.pop(name, None)
        if batch is None:
            return False
        self._at_work[batch] -= 1
        waiting = self._waiting.get(batch)
        if waiting:
            self._make_ready(batch, waiting.popleft())
            if waiting:
                return True
            del self._waiting[batch]
        elif not self._at_work[batch]:
            del self._at_work[batch]
        return False

    def remove(self, names: Optional[Container[str]]) -> List[Given]:
        """Takes out, of these or of all, those that have not started."""
        removed: List[Given] = []
        for batch, waiting in list(self._waiting.items()):
            kept: Deque[Given] = deque()
            for given in waiting:
                (removed if names is None or given[0]["id"] in names else kept).append(given)
            if kept:
                self._waiting[batch] = kept
            else:
                del self._waiting[batch]
        ready, self.ready = self.ready, deque()
        for given in ready:
            (removed if names is None or given[0]["id"] in names else self.ready).append(given)
        self._held.difference_update(order["id"] for order, _ in removed)
        return removed

    def _make_ready(self, batch: str, given: Given) -> None:
        self._at_work[batch] = self._at_work.get(batch, 0) + 1
        self._batch[given[0]["id"]] = batch
        self._held.discard(given[0]["id"])
        self.ready.append(given)
