"""What GetStatus tells, gathered from those who know. Everything is in memory but the disk's figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jobworker.server.rpc import convert
from jobworker.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from jobworker.server.config.model import Settings
    from jobworker.server.model import BatchHeader
    from jobworker.server.slices import Slices
    from jobworker.server.store.accounts import Accounts


class Drain(Protocol):
    """Where the service is."""

    @property
    def phase(self) -> int: ...

    @property
    def deadline_ns(self) -> int | None: ...


class Executor(Protocol):
    """What an executor said of itself; `since` in Unix nanoseconds."""

    @property
    def epoch(self) -> str: ...

    @property
    def since(self) -> int | None: ...

    @property
    def isolation(self) -> str: ...

    @property
    def isolation_detail(self) -> str: ...

    @property
    def tree(self) -> str: ...


class Work(Protocol):
    """Who runs the jobs; `snapshot` is of the last executor that attached."""

    @property
    def snapshot(self) -> Executor | None: ...

    @property
    def connected(self) -> bool: ...

    @property
    def running(self) -> int: ...


class Unfinished(Protocol):
    """A batch that is not final; of its jobs, `queued_count` are not in `running`."""

    @property
    def header(self) -> BatchHeader: ...

    @property
    def queued_count(self) -> int: ...

    @property
    def running(self) -> Mapping[int, str]: ...


class Config(Protocol):
    """Which configuration is in force; times in Unix nanoseconds."""

    @property
    def settings(self) -> Settings: ...

    @property
    def generation(self) -> int: ...

    @property
    def loaded_at(self) -> int: ...

    @property
    def last_error(self) -> str: ...

    @property
    def last_error_at(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Called, it gives the status as it is now."""

    version: str
    started_ns: int
    uptime_ns: Callable[[], int]  # by a clock that never jumps
    data: str  # the data folder, as this process opens it
    data_name: str  # as people know it
    certificates: Callable[[], Sequence[tuple[str, datetime]]]  # name, expiry
    drain: Drain
    work: Work
    unfinished: Callable[[], Iterable[Unfinished]]
    config: Config
    slices: Slices
    accounts: Accounts
    problems: Callable[[], Iterable[str]] = tuple  # what is wrong now

    async def __call__(self, *, followers: int) -> admin_pb2.ServiceStatus:
        status = admin_pb2.ServiceStatus(
            version=self.version,
            started_at=convert.timestamp(self.started_ns),
            state=admin_pb2.ServiceState.ValueType(self.drain.phase),
            running_jobs=self.work.running,
            followers=followers,
        )
        status.uptime.FromNanoseconds(self.uptime_ns())
        if self.drain.deadline_ns is not None:
            status.drain_deadline.FromNanoseconds(self.drain.deadline_ns)
        self._executor(status.executor)
        await self._load(status, self._stored(status.stored))
        self._disk(status.disk)
        for name, expires_at in self.certificates():
            status.certificates.add(name=name).expires_at.FromDatetime(expires_at)
        self._config(status.config)
        status.problems.extend(self.problems())
        return status

    def _executor(self, message: admin_pb2.ExecutorStatus) -> None:
        snapshot = self.work.snapshot
        message.attached = self.work.connected
        if snapshot is None:
            return
        message.epoch = snapshot.epoch
        message.isolation, message.isolation_detail = snapshot.isolation, snapshot.isolation_detail
        message.tree = snapshot.tree
        if snapshot.since is not None:
            message.up_since.FromNanoseconds(snapshot.since)

    async def _load(self, status: admin_pb2.ServiceStatus, users: dict[str, admin_pb2.UserLoad]) -> None:
        async for batch in self.slices.each(tuple(self.unfinished())):
            user = batch.header.user
            load = users.setdefault(user, admin_pb2.UserLoad(user=user))
            load.unfinished_batches += 1
            load.running_jobs += len(batch.running)
            # A job that was ordered, and has not told its start yet, runs as far as anybody is concerned.
            load.queued_jobs += batch.queued_count
        status.users.extend(users[name] for name in sorted(users))
        status.unfinished_batches = sum(load.unfinished_batches for load in users.values())
        status.queued_jobs = sum(load.queued_jobs for load in users.values())

    def _stored(self, message: admin_pb2.StoredStatus) -> dict[str, admin_pb2.UserLoad]:
        """At once, so that what users have makes up the sum; each user's."""
        total, limits = self.accounts.total, self.config.settings.limits
        message.counting = not self.accounts.known
        message.batches, message.bytes, message.files = total.batches, total.bytes, total.files
        message.bytes_limit, message.files_limit = limits.stored_bytes or 0, limits.stored_files or 0
        return {
            user: admin_pb2.UserLoad(
                user=user, stored_batches=stored.batches, stored_bytes=stored.bytes, stored_files=stored.files
            )
            for user, stored in self.accounts.users.items()
        }

    def _disk(self, message: admin_pb2.DiskStatus) -> None:
        disk = os.statvfs(self.data)
        message.path = self.data_name
        message.total_bytes, message.free_bytes = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        message.total_inodes, message.free_inodes = disk.f_files, disk.f_favail

    def _config(self, message: admin_pb2.ConfigStatus) -> None:
        config = self.config
        message.generation = config.generation
        message.loaded_at.FromNanoseconds(config.loaded_at)
        message.last_error = config.last_error
        if config.last_error and config.last_error_at is not None:
            message.last_error_at.FromNanoseconds(config.last_error_at)
