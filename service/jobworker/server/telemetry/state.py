"""What is so now, read when somebody asks: gauges, and counters that others keep. Knows of the parts what it asks."""

from __future__ import annotations

import asyncio
import math
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from jobworker.server.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from prometheus_client.core import Metric

    from jobworker.server.model import BatchHeader
    from jobworker.server.telemetry.names import Spec

REASONS = ("age", "user", "total")  # why retention removes a batch
ROLES = ("viewer", "operator", "admin", "custom", "unknown")
_PHASES = ("serving", "draining", "stopped")
_BATCHES_A_TURN = 2000  # some 500 us; then the loop has its turn


class Phase(Protocol):
    """Where the service is: `SERVING`."""

    @property
    def name(self) -> str: ...


class Drain(Protocol):
    """Whether the service takes work."""

    @property
    def phase(self) -> Phase: ...


class Snapshot(Protocol):
    """What an executor said of itself; `since` in Unix nanoseconds."""

    @property
    def isolation(self) -> str: ...

    @property
    def since(self) -> int | None: ...


class Work(Protocol):
    """Who runs the jobs."""

    @property
    def snapshot(self) -> Snapshot | None: ...

    @property
    def connected(self) -> bool: ...

    @property
    def running(self) -> int: ...


class Worker(Protocol):
    """The link to the executors; `epochs` counts them."""

    @property
    def epochs(self) -> int: ...


class Batch(Protocol):
    """A batch that is not final."""

    @property
    def header(self) -> BatchHeader: ...

    @property
    def queued_count(self) -> int: ...


class Server(Protocol):
    """Who answers calls."""

    @property
    def calls_under_way(self) -> int: ...

    @property
    def followers(self) -> int: ...

    @property
    def open_logs(self) -> int: ...

    @property
    def streamed_bytes(self) -> int: ...


class Config(Protocol):
    """Which configuration is in force; `loaded_at` in Unix nanoseconds."""

    @property
    def generation(self) -> int: ...

    @property
    def loaded_at(self) -> int: ...

    @property
    def last_error(self) -> str: ...


class Passwords(Protocol):
    """Who checks passwords; of `overdue` ones, the check takes longer than it may."""

    @property
    def waiting(self) -> int: ...

    @property
    def overdue(self) -> int: ...


class Stored(Protocol):
    """What batches take."""

    @property
    def batches(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def files(self) -> int: ...


class Accounts(Protocol):
    """What all batches take, and whether those are in it that finished before."""

    @property
    def known(self) -> bool: ...

    @property
    def total(self) -> Stored: ...


class Room(Protocol):
    """What they may take at the most; None: whatever."""

    @property
    def bytes(self) -> int | None: ...

    @property
    def files(self) -> int | None: ...


class Removed(Protocol):
    """What retention removed, by reason."""

    @property
    def batches(self) -> Mapping[Any, int]: ...

    @property
    def bytes(self) -> Mapping[Any, int]: ...


class Credentials(Protocol):
    """The files that callers and the server are known by: what is wrong with each; None: nothing is."""

    @property
    def files(self) -> Mapping[str, str | None]: ...


@dataclass(kw_only=True, eq=False)
class State:
    """A prometheus-client Collector. `look` first, then `collect` in the same turn of the loop.

    `role_of` gives the role of a user, `volumes` are folders by name, `certificates` gives (name, expiry).
    """

    version: str
    clock_ns: Callable[[], int]
    drain: Drain
    work: Work
    worker: Worker
    server: Server
    config: Config
    accounts: Accounts
    room: Callable[[], Room]
    removed: Removed
    unfinished: Callable[[], Iterable[Batch]]
    role_of: Callable[[str], object]
    passwords: Passwords
    volumes: Mapping[str, str]
    certificates: Callable[[], Sequence[tuple[str, datetime]]]
    credentials: Credentials
    _batches: int = field(default=0, init=False)
    _queued: Counter[str] = field(default_factory=Counter, init=False)
    _oldest_ns: int | None = field(default=None, init=False)

    async def look(self) -> None:
        """Goes through the unfinished batches, of which there may be thousands; others have their turn meanwhile."""
        batches = tuple(self.unfinished())
        queued: Counter[str] = Counter()
        oldest_ns: int | None = None
        for at, batch in enumerate(batches, 1):
            if count := batch.queued_count:
                header = batch.header
                queued[header.user] += count
                oldest_ns = header.accepted_at if oldest_ns is None else min(oldest_ns, header.accepted_at)
            if not at % _BATCHES_A_TURN:
                await asyncio.sleep(0)
        by_role: Counter[str] = Counter()
        for user, count in queued.items():
            role = self.role_of(user)
            by_role["unknown" if role is None else role if role in ROLES[:3] else "custom"] += count
        self._batches, self._queued, self._oldest_ns = len(batches), by_role, oldest_ns

    def collect(self) -> Iterator[Metric]:
        """Every metric of this kind."""
        yield from self._service()
        yield from self._work()
        yield from self._disk()
        yield from self._executor()
        yield from self._files()
        yield _gauge(names.PASSWORDS_WAITING, {(): self.passwords.waiting})
        yield _gauge(names.PASSWORDS_OVERDUE, {(): self.passwords.overdue})

    def _service(self) -> Iterator[Metric]:
        phase = self.drain.phase.name.lower()
        yield _gauge(names.BUILD_INFO, {(self.version, platform.python_version()): 1})
        yield _gauge(names.SERVICE_STATE, {(name,): float(name == phase) for name in _PHASES})
        yield _gauge(names.CALLS_UNDER_WAY, {(): self.server.calls_under_way})
        yield _gauge(names.FOLLOWERS, {(): self.server.followers})
        yield _gauge(names.LOG_FILES_OPEN, {(): self.server.open_logs})
        yield _counter(names.LOG_STREAMED, {(): self.server.streamed_bytes})

    def _work(self) -> Iterator[Metric]:
        age_ns = 0 if self._oldest_ns is None else max(0, self.clock_ns() - self._oldest_ns)
        yield _gauge(names.BATCHES_UNFINISHED, {(): self._batches})
        yield _gauge(names.JOBS_RUNNING, {(): self.work.running})
        yield _gauge(names.JOBS_QUEUED, {(role,): self._queued[role] for role in ROLES})
        yield _gauge(names.JOBS_OLDEST_QUEUED, {(): age_ns / 1e9})

    def _disk(self) -> Iterator[Metric]:
        # One that is gone has no figures, and the others are told all the same.
        disks = {name: disk for name, path in self.volumes.items() if (disk := _statvfs(path)) is not None}
        yield _gauge(names.DISK_FREE, {(name,): disk.f_bavail * disk.f_frsize for name, disk in disks.items()})
        yield _gauge(names.DISK_SIZE, {(name,): disk.f_blocks * disk.f_frsize for name, disk in disks.items()})
        # Some file systems (btrfs) make inodes as they are needed, and say 0 of 0.
        inodes = {(name,): disk.f_favail if disk.f_files else math.inf for name, disk in disks.items()}
        yield _gauge(names.DISK_INODES, inodes)
        yield from self._store()

    def _store(self) -> Iterator[Metric]:
        total, room = self.accounts.total, self.room()
        figures: tuple[tuple[Spec, int | None], ...] = (
            (names.STORE_BYTES, total.bytes if self.accounts.known else None),
            (names.STORE_FILES, total.files if self.accounts.known else None),
            (names.STORE_BATCHES, total.batches if self.accounts.known else None),
            (names.STORE_LIMIT_BYTES, room.bytes),
            (names.STORE_LIMIT_FILES, room.files),
        )
        for spec, value in figures:
            yield _gauge(spec, {} if value is None else {(): value})
        for spec, removed in (
            (names.RETENTION_BATCHES, self.removed.batches),
            (names.RETENTION_BYTES, self.removed.bytes),
        ):
            yield _counter(spec, {(reason,): removed[reason] for reason in REASONS})

    def _executor(self) -> Iterator[Metric]:
        snapshot = self.work.snapshot
        yield _gauge(names.EXECUTOR_UP, {(): float(self.work.connected)})
        yield _counter(names.EXECUTOR_STARTS, {(): self.worker.epochs})
        since = None if snapshot is None else snapshot.since
        yield _gauge(names.EXECUTOR_START_TIME, {} if since is None else {(): since / 1e9})
        isolated = snapshot is not None and snapshot.isolation != "none"
        yield _gauge(names.EXECUTOR_ISOLATED, {(): float(isolated)})

    def _files(self) -> Iterator[Metric]:
        expiries = {(name,): expiry.timestamp() for name, expiry in self.certificates()}
        yield _gauge(names.CERTIFICATE_NOT_AFTER, expiries)
        good = {(name,): float(problem is None) for name, problem in self.credentials.files.items()}
        yield _gauge(names.PKI_SUCCESSFUL, good)
        yield _gauge(names.CONFIG_GENERATION, {(): self.config.generation})
        yield _gauge(names.CONFIG_SUCCESSFUL, {(): float(not self.config.last_error)})
        yield _gauge(names.CONFIG_TIMESTAMP, {(): self.config.loaded_at / 1e9})


def _statvfs(path: str) -> os.statvfs_result | None:
    try:
        return os.statvfs(path)
    except OSError:
        return None


def _gauge(spec: Spec, values: Mapping[Any, float]) -> Metric:
    """`values` by their labels, a tuple each."""
    metric = GaugeMetricFamily(spec.name, spec.help, labels=spec.label_names)
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric


def _counter(spec: Spec, values: Mapping[Any, int]) -> Metric:
    metric = CounterMetricFamily(spec.name, spec.help, labels=spec.label_names)
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric
