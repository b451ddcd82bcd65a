"""Which finished batches are to be removed, and why: those that were kept long enough; and the oldest ones, of a user
whose batches take too much, and of all. Their folders are named after their times, so that what is too young is not
even looked at; unfinished ones lie elsewhere. How old a batch is, `ages` knows. Removes none (store/retention.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from jobworker.server.clocks import Now
from jobworker.server.ids import is_id
from jobworker.server.store.accounts import Accounts
from jobworker.server.store.ages import Ages
from jobworker.server.store.layout import RESULTS, Layout, sorted_names
from jobworker.server.store.order import oldest_first
from jobworker.server.store.removals import Reason, Removal
from jobworker.server.store.stored import Stored, stored_in

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Room:
    """What may be stored at the most; None: whatever."""

    bytes: int | None = None
    files: int | None = None

    def is_short_of(self, stored: Stored) -> bool:
        """There is more than that."""
        return bool(self.exceeded_by(stored))

    def exceeded_by(self, *parts: Stored) -> str:
        """The limit that these would exceed together, in words; empty: none."""
        if self.bytes is not None and sum([part.bytes for part in parts]) > self.bytes:
            return f"{self.bytes} bytes"
        if self.files is not None and sum([part.files for part in parts]) > self.files:
            return f"{self.files} files"
        return ""

    @property
    def limited(self) -> bool:
        """There is a limit."""
        return self.bytes is not None or self.files is not None


ANY = Room()


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept: finished batches so long after their end (None: for ever); and of them no more than that with all
    others there is room for what a user has, and for what all have."""

    seconds: float | None = None
    user: Room = ANY
    total: Room = ANY


class Plan:
    """Made once."""

    def __init__(self, *, layout: Layout, accounts: Accounts, ages: Ages, now: Callable[[], Now]) -> None:
        self._layout = layout
        self._accounts = accounts
        self._ages = ages
        self._now = now

    def parts(self, keep: Keep, but: Container[str]) -> Iterator[Iterator[Removal]]:
        """What would be removed now, in parts: each is to be gone through before the next is asked for. Batches in
        `but` are as good as gone: who removes nothing puts there what came. Blocks; any thread."""
        users = {user: Stored(s.batches, s.bytes, s.files) for user, s in tuple(self._accounts.users.items())}
        total = Stored()
        for stored in users.values():
            total.add(stored)

        def take(user: str, stored: Stored) -> None:
            total.take(stored)
            users.setdefault(user, Stored()).take(stored)

        if keep.seconds is not None:
            yield self._aged(keep.seconds, take, but)
        if not self._accounts.known:
            return
        if keep.user.limited:
            for user in sorted(users):
                if keep.user.is_short_of(users[user]):
                    is_over = partial(keep.user.is_short_of, users[user])
                    yield self._oldest([user], Reason.USER, is_over, take, but)
        if keep.total.is_short_of(total):
            yield self._oldest(self._layout.users(), Reason.TOTAL, partial(keep.total.is_short_of, total), take, but)

    def is_over(self, keep: Keep, user: str) -> bool:
        """A user has too much, or all have."""
        return keep.total.is_short_of(self._accounts.total) or (
            keep.user.limited and keep.user.is_short_of(self._accounts.of(user))
        )

    def _aged(self, seconds: float, take: Callable[[str, Stored], object], but: Container[str]) -> Iterator[Removal]:
        steady = self._note_now()
        latest = steady + self._ages.furthest
        for user, folder, written in candidates(self._layout, before=latest - seconds, now=latest):
            age = self._ages.of(folder, written, steady=steady)
            if age > seconds and os.path.basename(folder) not in but:
                yield _removal(user, folder, Reason.AGE, age, take)

    def _oldest(
        self,
        users: list[str],
        reason: Reason,
        is_over: Callable[[], bool],
        take: Callable[[str, Stored], object],
        but: Container[str],
    ) -> Iterator[Removal]:
        steady = self._note_now()
        latest = steady + self._ages.furthest

        def ended_at(folder: str) -> tuple[float, float] | None:
            written = _written(folder)
            # Ages are exact to a second.
            return None if written is None else (latest - self._ages.of(folder, written, steady=steady), written)

        for ended, user, folder in oldest_first(self._layout, users, ended_at):
            if not is_over():
                return
            if os.path.basename(folder) not in but:
                yield _removal(user, folder, reason, latest - ended, take)

    def _note_now(self) -> float:
        now = seconds(self._now())
        self._ages.note(**now)
        return now["steady"]


def _removal(user: str, folder: str, reason: Reason, age: float, take: Callable[[str, Stored], object]) -> Removal:
    stored = stored_in(folder)
    take(user, stored)
    return Removal(user, os.path.basename(folder), folder, stored, reason, age)


def candidates(layout: Layout, *, before: float, now: float) -> Iterator[tuple[str, str, float]]:
    """Users and folders of batches that may have ended before a Unix time, with the time of their last results.

    A batch's path has the time in its id, which is not after its end by more than the day that a client's clock may
    differ. Days that are still to come have their names from a clock that went wrong, and tell nothing.
    """
    too_young = range(_day(before + _DAY_SECONDS) + 1, _day(now + 2 * _DAY_SECONDS))
    for user in layout.users():
        root = layout.user_root(user)
        for day in sorted_names(root):
            if _number_of(day) in too_young:
                continue
            for minute in sorted_names(f"{root}/{day}"):
                for name in sorted_names(f"{root}/{day}/{minute}"):
                    folder = f"{root}/{day}/{minute}/{name}"
                    written = _written(folder) if is_id(name) else None
                    if written is not None:
                        yield user, folder, written


def seconds(now: Now) -> dict[str, float]:
    """For Ages."""
    return {"wall": now.wall_ns / 1e9, "steady": now.boottime_ns / 1e9}


def _written(folder: str) -> float | None:
    try:
        return os.stat(f"{folder}/{RESULTS}").st_mtime
    except OSError:
        return None


def _day(seconds: float) -> int:
    return int(seconds // _DAY_SECONDS)


def _number_of(day: str) -> int | None:
    try:
        return _day(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
