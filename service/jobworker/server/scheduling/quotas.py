"""How much a user may have unfinished: what is being submitted counts like what was accepted, or many uploads at a time
would get as many times the quota."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

from jobworker.server.errors import ExhaustedError
from jobworker.server.store.batches import Batches

_FULL_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """What is taken at the most."""

    batch_jobs: int
    user_unfinished_jobs: int
    user_unfinished_batches: int
    free_disk_bytes: int
    default_parallelism: int


class Upload(Protocol):
    """A batch that is being submitted."""

    @property
    def count(self) -> int:
        """Jobs so far."""
        ...


class Quotas:
    """Of all users."""

    def __init__(self, *, data: str, batches: Batches, limits: AcceptLimits) -> None:
        """`data` is the folder whose disk must have room."""
        self.limits = limits
        self._data = data
        self._batches = batches
        self._uploads: defaultdict[str, list[Upload]] = defaultdict(list)

    def begin(self, user: str, upload: Upload) -> None:
        """A user submits a batch."""
        self._uploads[user].append(upload)

    def end(self, user: str, upload: Upload) -> None:
        """It is accepted, or was given up; again is fine."""
        uploads = self._uploads.get(user)
        if uploads is not None and upload in uploads:
            uploads.remove(upload)
            if not uploads:
                del self._uploads[user]

    def check_room(self, user: str) -> int:
        """How many more unfinished jobs a user may have.

        Raises:
            ExhaustedError: none, or no batch, or the disk is nearly full.
        """
        disk = os.statvfs(self._data)
        if disk.f_bavail * disk.f_frsize < self.limits.free_disk_bytes or disk.f_favail < 1000 < disk.f_files:
            raise ExhaustedError(
                "the service's disk is nearly full", subject="service", retry_after_seconds=_FULL_RETRY_SECONDS
            )
        batches, jobs = self._unfinished(user)
        if batches >= self.limits.user_unfinished_batches:
            raise exhausted(user, f"{self.limits.user_unfinished_batches} unfinished batches")
        if jobs >= self.limits.user_unfinished_jobs:
            raise exhausted(user, f"{self.limits.user_unfinished_jobs} unfinished jobs")
        return self.limits.user_unfinished_jobs - jobs

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
