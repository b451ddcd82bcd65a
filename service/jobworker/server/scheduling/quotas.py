"""How much a user may have unfinished: what is being submitted counts like what was accepted, or many uploads at a time
would get as many times the quota."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jobworker.server.errors import ExhaustedError
from jobworker.server.store.accounts import Accounts
from jobworker.server.store.batches import Batches
from jobworker.server.store.plan import ANY, Room
from jobworker.server.store.stored import FILES_OF_BATCH, Stored

_FULL_RETRY_SECONDS = 30.0
# So long it holds that the disk has room: what is written meanwhile may need more, and meets a full disk at the worst.
_DISK_SECONDS = 0.2
_LEAST_INODES = 1000
_NOTHING = Stored()


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """What is taken at the most."""

    batch_jobs: int
    user_unfinished_jobs: int
    user_unfinished_batches: int
    free_disk_bytes: int
    default_parallelism: int
    user_stored: Room = ANY
    stored: Room = ANY


class Upload(Protocol):
    """A batch that is being submitted."""

    @property
    def count(self) -> int:
        """Jobs so far."""
        ...

    @property
    def size(self) -> int:
        """Bytes so far."""
        ...


class Quotas:
    """Of all users."""

    def __init__(
        self,
        *,
        data: str,
        batches: Batches,
        accounts: Accounts,
        limits: AcceptLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`data` is the folder whose disk must have room, `clock` is monotonic."""
        self.limits = limits
        self._data = data
        self._batches = batches
        self._accounts = accounts
        self._clock = clock
        self._has_room_until = 0.0
        self._uploads: defaultdict[str, list[Upload]] = defaultdict(list)
        # What uploads will take when they are accepted, as far as it was noted: of each, of a user's, and of all.
        self._noted: dict[Upload, Stored] = {}
        self._coming: defaultdict[str, Stored] = defaultdict(Stored)
        self._all_coming = Stored()

    def configure(self, limits: AcceptLimits) -> None:
        """Takes other limits."""
        self.limits = limits
        self._has_room_until = 0.0

    def begin(self, user: str, upload: Upload) -> None:
        """A user submits a batch."""
        self._uploads[user].append(upload)

    def end(self, user: str, upload: Upload) -> None:
        """It is accepted, or was given up; again is fine."""
        uploads = self._uploads.get(user)
        if uploads is not None and upload in uploads:
            uploads.remove(upload)
            noted = self._noted.pop(upload, Stored())
            self._coming[user].take(noted)
            self._all_coming.take(noted)
            if not uploads:
                del self._uploads[user]
                del self._coming[user]

    def check_room(self, user: str) -> int:
        """How many more unfinished jobs a user may have.

        Raises:
            ExhaustedError: none, or no batch, or no byte, or the disk is nearly full.
        """
        self._check_disk()
        batches, jobs = self._unfinished(user)
        if batches >= self.limits.user_unfinished_batches:
            raise exhausted(user, f"{self.limits.user_unfinished_batches} unfinished batches")
        if jobs >= self.limits.user_unfinished_jobs:
            raise exhausted(user, f"{self.limits.user_unfinished_jobs} unfinished jobs")
        self._check_stored(user, Stored(1, 1, FILES_OF_BATCH + 1))
        return self.limits.user_unfinished_jobs - jobs

    def check_size(self, user: str, upload: Upload) -> None:
        """Notes how large an upload is by now.

        Raises:
            ExhaustedError: with it, and all others under way, there would be more than may be stored.
        """
        if not (self.limits.user_stored.limited or self.limits.stored.limited):
            return
        now = Stored(1, upload.size, FILES_OF_BATCH + upload.count)
        before = self._noted.get(upload, Stored())
        self._noted[upload] = now
        for sum_ in (self._coming[user], self._all_coming):
            sum_.add(now)
            sum_.take(before)
        self._check_stored(user, Stored())

    def _check_stored(self, user: str, more: Stored) -> None:
        limits, accounts = self.limits, self._accounts
        if limits.user_stored.limited and (
            over := limits.user_stored.exceeded_by(accounts.of(user), self._coming.get(user, _NOTHING), more)
        ):
            raise exhausted(user, f"{over} stored")
        if limits.stored.limited and (over := limits.stored.exceeded_by(accounts.total, self._all_coming, more)):
            raise ExhaustedError(
                f"the service would store more than {over}",
                subject="service",
                retry_after_seconds=_FULL_RETRY_SECONDS,
            )

    def _check_disk(self) -> None:
        now = self._clock()
        if now < self._has_room_until:
            return
        disk = os.statvfs(self._data)
        if disk.f_bavail * disk.f_frsize < self.limits.free_disk_bytes or disk.f_favail < _LEAST_INODES < disk.f_files:
            raise ExhaustedError(
                "the service's disk is nearly full", subject="service", retry_after_seconds=_FULL_RETRY_SECONDS
            )
        self._has_room_until = now + _DISK_SECONDS

    def jobs_left(self, user: str) -> int:
        """How many more unfinished jobs a user may have; below zero: so many too many."""
        return self.limits.user_unfinished_jobs - self._unfinished(user)[1]

    def _unfinished(self, user: str) -> tuple[int, int]:
        """Batches and jobs, of what was accepted and of what is being submitted."""
        batches, jobs = self._batches.unfinished_of(user)
        uploads = self._uploads.get(user, ())
        return batches + len(uploads), jobs + sum([upload.count for upload in uploads])


def exhausted(user: str, what: str) -> ExhaustedError:
    """The error of a full share."""
    return ExhaustedError(
        f"user {user} would have more than {what}", subject=f"user:{user}", retry_after_seconds=_FULL_RETRY_SECONDS
    )
