"""What the batches of each user take of the disk, kept up to date record by record, and durable in the commit log.

Of finished batches the log has the totals, since its last checkpoint; of what happened after that its records tell
(store/committed.py). Of unfinished ones they follow from the batches. So a start costs the same however many finished
ones there are. Where the log has no totals, the finished batches are counted once (store/retention.py).

Quotas, retention and whoever shows these figures read them here. On the event loop; any thread may copy `users`.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.frames import Totals
from jobworker.server.store.stored import Stored


class Accounts:
    """`begin` first."""

    def __init__(self) -> None:
        self.total = Stored()
        self.users: dict[str, Stored] = {}  # all that each user has
        self.known = False  # finished batches of the time before are counted in
        self._finished: dict[str, Stored] = {}  # of these, what is finished
        # Finished batches that the log says are gone, with their users: whose folders are not moved out of sight yet;
        # and those of which that was so when the data folder was last synced.
        self._going: dict[str, str] = {}
        self._unsynced: dict[str, str] = {}
        self._own: set[str] = set()  # until they are: batches that were unfinished in this life of the server

    def begin(self, finished: dict[str, Stored] | None, batches: Iterable[ActiveBatch]) -> None:
        """What recovery found; None: the finished ones are to be counted."""
        self.known = finished is not None
        if finished is not None:
            self._add_finished(finished)
        for batch in batches:
            self.note(batch)

    def of(self, user: str) -> Stored:
        """What a user has."""
        return self.users.get(user) or Stored()

    def note(self, batch: ActiveBatch) -> None:
        """An unfinished batch came, or changed."""
        seen = batch.accounted
        if not seen.batches and not self.known:
            self._own.add(batch.header.correlation_id)
        size, files = batch.stored_bytes, batch.stored_files
        change = Stored(1 - seen.batches, size - seen.bytes, files - seen.files)
        batch.accounted = Stored(1, size, files)
        self._change(batch.header.user, change)

    def forget(self, batch: ActiveBatch) -> None:
        """It never was."""
        seen, batch.accounted = batch.accounted, Stored()
        self._change(batch.header.user, Stored(-seen.batches, -seen.bytes, -seen.files))

    def finish(self, batch: ActiveBatch) -> None:
        """It lies with the finished ones."""
        self.note(batch)
        self._finished.setdefault(batch.header.user, Stored()).add(batch.accounted)

    def remove(self, correlation_id: str, user: str, stored: Stored) -> None:
        """A finished batch is to be removed: `restore` where that could not be recorded, `removed` when it is out of
        sight."""
        self._going[correlation_id] = user
        self._remove(user, stored, -1)

    def restore(self, correlation_id: str, user: str, stored: Stored) -> None:
        """It stays."""
        del self._going[correlation_id]
        self._remove(user, stored, 1)

    def removed(self, correlation_id: str) -> None:
        """It is out of sight."""
        self._going.pop(correlation_id, None)

    def note_sync(self) -> None:
        """The data folder is about to be synced: what is out of sight by now will stay so."""
        self._unsynced = dict(self._going)

    def _remove(self, user: str, stored: Stored, sign: int) -> None:
        change = Stored(sign * stored.batches, sign * stored.bytes, sign * stored.files)
        self._change(user, change)
        finished = self._finished.setdefault(user, Stored())
        finished.add(change)
        if not finished.batches:
            del self._finished[user]

    def is_own(self, correlation_id: str) -> bool:
        """The count is to pass over this one. Any thread."""
        return correlation_id in self._own

    def counted(self, finished: dict[str, Stored]) -> None:
        """All finished batches but own ones were counted."""
        self.known, self._own = True, set()
        self._add_finished(finished)

    def totals(self, unfinished: Iterable[ActiveBatch]) -> Totals | None:
        """For the commit log; None: they are not known."""
        if not self.known:
            return None
        but: list[str] = [batch.header.correlation_id for batch in unfinished if batch.recorded.complete]
        return Totals(self._finished, but, {**self._unsynced, **self._going})

    def _add_finished(self, finished: dict[str, Stored]) -> None:
        for user, stored in finished.items():
            self._finished.setdefault(user, Stored()).add(stored)
            self._change(user, stored)

    def _change(self, user: str, change: Stored) -> None:
        self.total.add(change)
        mine = self.users.setdefault(user, Stored())
        mine.add(change)
        if mine.batches <= 0:
            self.total.take(mine)  # nothing, unless the count was wrong: then it is right again
            del self.users[user]
