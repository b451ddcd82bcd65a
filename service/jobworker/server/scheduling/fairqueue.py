"""Whose job is next: users take turns, and a user's batches go in the order they came. Pure."""

from __future__ import annotations

from collections import OrderedDict

from jobworker.server.store.active import ActiveBatch


class FairQueue:
    """The batches that have a job to start now."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, OrderedDict[str, ActiveBatch]] = OrderedDict()

    def refresh(self, batch: ActiveBatch) -> None:
        """Takes a batch in, or out, as it is now. A batch that was out goes behind its user's others."""
        if not batch.startable():
            self.take_out(batch)
            return
        batches = self._users.get(batch.header.user)
        if batches is None:
            batches = self._users[batch.header.user] = OrderedDict()
        batches.setdefault(batch.header.correlation_id, batch)

    def __bool__(self) -> bool:
        """Some batch has a job to start."""
        return bool(self._users)

    def take_out(self, batch: ActiveBatch) -> None:
        """It has no more to start, until it is refreshed."""
        batches = self._users.get(batch.header.user)
        if batches is not None:
            batches.pop(batch.header.correlation_id, None)
            if not batches:
                del self._users[batch.header.user]

    def next(self) -> ActiveBatch | None:
        """The batch whose job is to start now; its user goes behind the others. None: there is nothing to start."""
        if not self._users:
            return None
        user, batches = next(iter(self._users.items()))
        self._users.move_to_end(user)
        return next(iter(batches.values()))
