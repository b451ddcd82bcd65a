"""Takes a batch in: validate, record, and only then give the id out. What is not recorded leaves no trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jobworker.server.core.batch import Batch
from jobworker.server.errors import AlreadyExistsError, NotFoundError, NotOfTodayError, UnavailableError, invalid
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchHeader, BatchOptions, JobSpec
from jobworker.server.scheduling.quotas import AcceptLimits, Quotas, exhausted
from jobworker.server.scheduling.validate import check_job, check_options
from jobworker.server.slices import Slices
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.batchfile import BatchReader, BatchWriter, Digest, encode_spec
from jobworker.server.store.finished import FinishedBatch
from jobworker.server.store.layout import BATCH, Layout
from jobworker.server.store.ledger import Ledger, unavailable
from jobworker.server.store.syncer import SharedSync, ThreadSyncer
from jobworker.server.telemetry.observe import Observer

DAY_MS = 86_400_000
_BUSY_RETRY_SECONDS = 1.0
# Of one job: what is more is looked at and written in a thread.
_STRINGS = 1000
_BYTES = 1 << 17
# After so many more jobs or bytes of an upload it is asked again what its user may have.
_ROOM_JOBS = 1000
_ROOM_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Accepted:
    """A batch that is on disk; `accepted_at` in Unix nanoseconds."""

    correlation_id: CorrelationId
    duplicate: bool
    accepted_at: int
    job_count: int


class Acceptor:
    """Makes intakes."""

    def __init__(
        self,
        *,
        layout: Layout,
        batches: Batches,
        ledger: Ledger,
        syncer: ThreadSyncer,
        limits: AcceptLimits,
        clock_ns: Callable[[], int],
        accepting: Callable[[ActiveBatch], object],
        accepted: Callable[[ActiveBatch], object],
        withdrawn: Callable[[ActiveBatch], object],
        observer: Observer,
        slices: Slices,
        admit: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            accepting: is handed each new batch when its record is on its way, and may record what follows.
            accepted: is handed it once it is durable.
            withdrawn: is handed it, in place of the latter, when its client is gone.
            admit: raises when no new one is taken now.
        """
        self.layout = layout
        self.batches = batches
        self.ledger = ledger
        self.syncer = syncer
        self.clock_ns = clock_ns
        self.accepting = accepting
        self.accepted = accepted
        self.withdrawn = withdrawn
        self.observer = observer
        self.slices = slices
        self.admit = admit
        self.under_way: set[CorrelationId] = set()
        self.quotas = Quotas(data=layout.data, batches=batches, accounts=ledger.accounts, limits=limits)
        self.active_folder = SharedSync(syncer=syncer, work=lambda: ledger.disk.sync_folder(layout.active_root))
        self._closed = False

    def configure(self, limits: AcceptLimits) -> None:
        """Takes other limits, for what comes from now on."""
        self.quotas.configure(limits)

    def close(self) -> None:
        """Takes no new batches; those begun may still commit."""
        self._closed = True

    def begin(self, *, user: str, correlation_id: CorrelationId | None, single: bool) -> Intake:
        """Opens an intake.

        Args:
            user: whose batch it will be.
            correlation_id: the client's own name for it; None makes one.
            single: the request is the job itself (ExecuteJob): field paths have no `jobs[i].` before them.

        Raises:
            NotOfTodayError: the name's time is more than a day from now.
            AlreadyExistsError: the name is another's.
            ExhaustedError: the user's share or the disk is full.
            UnavailableError: the service stops or drains, or the same batch is just being taken in.
            PreconditionError: the service is stopped.
        """
        if self._closed:
            raise UnavailableError("the service is stopping", retry_after_seconds=_BUSY_RETRY_SECONDS)
        now_ns = self.clock_ns()
        if correlation_id is None:
            return _NewIntake(self, CorrelationId.make(now_ns // 1_000_000), user, single, now_ns)
        if abs(correlation_id.unix_ms - now_ns // 1_000_000) > DAY_MS:
            raise NotOfTodayError("x-correlation-id", now_ms=now_ns // 1_000_000)
        if correlation_id in self.under_way:
            raise UnavailableError(
                f"batch {correlation_id} is just being submitted", retry_after_seconds=_BUSY_RETRY_SECONDS
            )
        if (there := self._stored(correlation_id, user)) is not None:
            return _RepeatedIntake(self, there, single)
        return _NewIntake(self, correlation_id, user, single, now_ns)

    def _stored(self, correlation_id: CorrelationId, user: str) -> ActiveBatch | FinishedBatch | None:
        try:
            there = self.batches.find(correlation_id, user=None)
        except NotFoundError:
            return None
        if there.header.user != user:
            raise AlreadyExistsError(f"the name {correlation_id} is taken")
        return there


class Intake:
    """A batch on its way in: `add` each job, then `commit`; `abort` in any other case. Not for two tasks at a time."""

    def __init__(self, acceptor: Acceptor, correlation_id: CorrelationId, single: bool) -> None:
        self._acceptor = acceptor
        self.correlation_id = correlation_id
        self._single = single
        self.count = 0
        self._digest = Digest()

    async def add(self, spec: JobSpec, options: BatchOptions | None) -> None:
        """Validates a job and writes it. `options` come with the first alone.

        Raises:
            InvalidRequestError: with the field's path.
            ExhaustedError: the batch, or the user's share, is full.
            OSError: it could not be written.
        """
        prefix = "" if self._single else f"jobs[{self.count}]."
        if options is not None and self.count:
            raise invalid(f"{prefix}batch", "is allowed on the first message alone")
        large = _is_large(spec)
        if large:
            line = await self._acceptor.slices.in_thread(partial(_checked, spec, prefix))
        else:
            line = _checked(spec, prefix)
        if self.count == 0:
            options = options or BatchOptions()
            check_options(options, prefix=prefix)
            self._digest.add_options(options)
            self._begin(options)
        if large:
            await self._acceptor.slices.in_thread(partial(self._add, line))
        else:
            self._add(line)
        self.count += 1
        self._added()

    def _begin(self, options: BatchOptions) -> None:
        raise NotImplementedError

    def _add(self, line: bytes) -> None:
        raise NotImplementedError

    def _added(self) -> None:
        """A job was added: may there be more?"""

    async def commit(self) -> Accepted:
        """Makes the batch durable; after it, its jobs may start. When cancelled meanwhile, the batch never was.

        Raises:
            InvalidRequestError: it has no jobs.
            AlreadyExistsError: the name stands for another content.
            OSError: it could not be made durable.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Leaves nothing behind; after a commit, or again, it does nothing."""


def _is_large(spec: JobSpec) -> bool:
    """To check and encode it takes more than a millisecond or two."""
    size = len(spec.command) + len(spec.stdin)
    if spec.argv or spec.env:
        if len(spec.argv) + len(spec.env) > _STRINGS:
            return True
        size += sum(map(len, spec.argv)) + sum(map(len, spec.env.values()))
    return size > _BYTES


def _checked(spec: JobSpec, prefix: str) -> bytes:
    check_job(spec, prefix=prefix)
    return encode_spec(spec)


class _NewIntake(Intake):
    def __init__(self, acceptor: Acceptor, correlation_id: CorrelationId, user: str, single: bool, now_ns: int) -> None:
        super().__init__(acceptor, correlation_id, single)
        self._user = user
        self._now_ns = now_ns
        acceptor.admit()
        acceptor.ledger.check()
        self._room = acceptor.quotas.check_room(user)  # for so many jobs from `_since` on
        self._since = 0
        self._checked_size = 0
        self._folder = acceptor.layout.active(correlation_id)
        self._has_folder = False
        self._writer: BatchWriter | None = None
        self._header: BatchHeader | None = None
        acceptor.under_way.add(correlation_id)
        acceptor.quotas.begin(user, self)

    def _begin(self, options: BatchOptions) -> None:
        self._header = BatchHeader(
            correlation_id=self.correlation_id,
            user=self._user,
            accepted_at=self._now_ns,
            name=options.name,
            parallelism=options.parallelism or self._acceptor.quotas.limits.default_parallelism,
            fail_fast=options.fail_fast,
            labels=options.labels,
        )
        self._writer = BatchWriter(self._header, self._digest, disk=self._acceptor.ledger.disk, create=self._create)

    def _create(self) -> int:
        """The file of a batch that is too large for the commit log."""
        disk = self._acceptor.ledger.disk
        try:
            disk.make_folder(self._folder)
        except FileExistsError:
            # Of one that never was, for there is no such batch, and nobody else is submitting it.
            self._acceptor.layout.discard(self._folder)
            disk.make_folder(self._folder)
        self._has_folder = True
        return disk.create(f"{self._folder}/{BATCH}")

    def _add(self, line: bytes) -> None:
        limit = self._acceptor.quotas.limits.batch_jobs
        if self.count >= limit:
            raise exhausted(self._user, f"{limit} jobs in one batch")
        if self.count - self._since >= min(self._room, _ROOM_JOBS):
            self._room, self._since = self._acceptor.quotas.jobs_left(self._user), self.count
            if self._room <= 0:
                most = self._acceptor.quotas.limits.user_unfinished_jobs
                raise exhausted(self._user, f"{most} unfinished jobs")
        assert self._writer is not None  # noqa: S101  (_begin made it with the first job)
        self._writer.add(line)

    def _added(self) -> None:
        if self.size - self._checked_size > _ROOM_BYTES or self.count % _ROOM_JOBS == 0:
            self._checked_size = self.size
            self._acceptor.quotas.check_size(self._user, self)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return 0 if self._writer is None else self._writer.size

    async def commit(self) -> Accepted:
        if self._writer is None or self._header is None:
            raise invalid("jobs", "is empty: a batch has at least one job")
        self._acceptor.admit()  # again: a batch of many jobs is long on its way
        if self._acceptor.quotas.jobs_left(self._user) < 0:
            most = self._acceptor.quotas.limits.user_unfinished_jobs
            raise exhausted(self._user, f"{most} unfinished jobs")
        writer, ledger = self._writer, self._acceptor.ledger
        content = writer.finish()
        self._acceptor.quotas.check_size(self._user, self)
        if not content:
            await self._sync(writer)
        batch = ActiveBatch(
            folder=self._folder,
            header=self._header,
            digest=self._digest.hex(),
            state=Batch(job_count=self.count, parallelism=self._header.parallelism, fail_fast=self._header.fail_fast),
            reader=BatchReader(self._folder, writer.offsets, content=content),
            spec_bytes=writer.size,
        )
        durable: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        ledger.accept(batch, content, durable.set_result)
        self._acceptor.accepting(batch)
        self._has_folder = False  # the ledger's
        try:
            error = await asyncio.shield(durable)
        except asyncio.CancelledError:
            # Nobody learns of it, so it never was: none of its jobs was started.
            if await durable is None:
                self._acceptor.withdrawn(batch)
                ledger.forget(batch, lambda _: None)
            raise
        if error is not None:
            raise unavailable(error)
        self._leave()
        self._acceptor.observer.batch_accepted(self._header, self.count, self._now_ns, self._acceptor.clock_ns())
        self._acceptor.accepted(batch)
        return Accepted(self.correlation_id, False, self._now_ns, self.count)

    async def _sync(self, writer: BatchWriter) -> None:
        disk, folder = self._acceptor.ledger.disk, self._folder

        def sync() -> None:
            disk.sync(writer.descriptor)
            disk.sync_folder(folder)

        durable = self._acceptor.syncer.run(sync)
        try:
            await asyncio.shield(durable)
            await self._acceptor.active_folder.sync()
        except asyncio.CancelledError:
            # The descriptor must not be closed, and perhaps used anew, under the thread that syncs it.
            await asyncio.wait([durable])
            raise

    def abort(self) -> None:
        self._leave()
        if self._has_folder:
            self._has_folder = False
            self._acceptor.layout.discard(self._folder)

    def _leave(self) -> None:
        self._acceptor.under_way.discard(self.correlation_id)
        self._acceptor.quotas.end(self._user, self)
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _RepeatedIntake(Intake):
    """A batch that is there already: it is only compared."""

    def __init__(self, acceptor: Acceptor, there: ActiveBatch | FinishedBatch, single: bool) -> None:
        super().__init__(acceptor, there.header.correlation_id, single)
        self._there = there

    def _begin(self, options: BatchOptions) -> None:
        """The options are in the digest."""

    def _add(self, line: bytes) -> None:
        self._digest.add_job(line)

    async def commit(self) -> Accepted:
        if self._there.digest != self._digest.hex():
            raise AlreadyExistsError(f"batch {self.correlation_id} exists with another content")
        return Accepted(self.correlation_id, True, self._there.header.accepted_at, self._there.job_count)
