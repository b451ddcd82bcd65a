"""Sends orders: records them, opens the files of their jobs meanwhile, and hands them to the worker when both is done.

An order is durable, with its executor's epoch, before it is sent: after any crash, a job without one never started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from jobworker.server.core.records import Ordered
from jobworker.server.model import EndReason, JobEnd, JobState
from jobworker.server.scheduling.order import CannotOrderError, RunSettings, close_files, make_order
from jobworker.server.scheduling.worker import Order, Worker
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.disk import Disk
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.uids import NoUidError
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.observe import Observer


@dataclass(slots=True)
class _Made:
    """What became of some orders in the thread that opens their files."""

    orders: list[Order] = field(default_factory=list)
    refused: list[tuple[int, CannotOrderError]] = field(default_factory=list)
    short: OSError | None = None  # the service is short of something: the rest waits
    waiting: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Launch:
    batch: ActiveBatch
    jobs: tuple[int, ...]
    epoch: str
    at: int
    held: bool  # until its batch is accepted
    durable: bool = False
    made: _Made | None = None


class Launcher:
    """`use` first."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        observer: Observer,
        clock_ns: Callable[[], int],
        log: Log,
        is_stopping: Callable[[str], bool],
        failed: Callable[[ActiveBatch, list[int], list[tuple[int, JobEnd]], bool], object],
    ) -> None:
        """`is_stopping` tells of a job's id whether it is to end. `failed` is told which jobs of a batch, whose orders
        are durable, were not sent and wait; how those end that never can be; and whether the service is short of
        something."""
        self.under_way: set[str] = set()  # ids of jobs whose orders are not sent yet
        self._ledger = ledger
        self._observer = observer
        self._clock_ns = clock_ns
        self._log = log
        self._is_stopping = is_stopping
        self._failed = failed
        self._worker: Worker | None = None
        self._held: dict[ActiveBatch, _Launch] = {}

    def use(self, worker: Worker) -> None:
        """Who is handed the orders."""
        self._worker = worker

    def launch(
        self, batch: ActiveBatch, jobs: tuple[int, ...], epoch: str, settings: RunSettings, *, hold: bool = False
    ) -> None:
        """Starts jobs on the executor of an epoch; `hold`: once their batch is released.

        Raises:
            ExhaustedError, UnavailableError: nothing can be recorded now.
        """
        launch = _Launch(batch, jobs, epoch, self._clock_ns(), hold)
        self._ledger.record(batch, [Ordered(jobs, epoch, launch.at)], lambda error: self._recorded(launch, error))
        self.under_way.update(map(launch.batch.job_id, launch.jobs))
        if hold:
            self._held[batch] = launch
        disk = self._ledger.disk
        uid_of = None if self._worker is None else self._worker.uid_of
        self._ledger.files.do(lambda: _make(launch, settings, disk, uid_of), lambda made, _: self._made(launch, made))

    def release(self, batch: ActiveBatch) -> None:
        """What is held of a batch may be sent."""
        launch = self._held.pop(batch, None)
        if launch is not None:
            # Later: what is done with it is not part of the call that submits the batch.
            asyncio.get_running_loop().call_soon(self._released, launch)

    def _released(self, launch: _Launch) -> None:
        launch.held = False
        self._send_if_ready(launch)

    def withdraw(self, batch: ActiveBatch) -> None:
        """What is held of a batch is never sent."""
        launch = self._held.pop(batch, None)
        if launch is not None:
            self._give_up(launch)

    def _recorded(self, launch: _Launch, error: OSError | None) -> None:
        if error is not None:
            self._held.pop(launch.batch, None)
            self._give_up(launch)
            return
        launch.durable = True
        self._send_if_ready(launch)

    def _made(self, launch: _Launch, made: _Made | None) -> None:
        launch.made = made or _Made()
        if launch.jobs:
            self._send_if_ready(launch)
        else:
            _close(launch.made)  # it was given up

    def _give_up(self, launch: _Launch) -> None:
        self.under_way.difference_update(map(launch.batch.job_id, launch.jobs))
        if launch.made is not None:
            _close(launch.made)
        launch.jobs = ()

    def _send_if_ready(self, launch: _Launch) -> None:
        if launch.durable and launch.made is not None and not launch.held:
            self._send(launch, launch.made)

    def _send(self, launch: _Launch, made: _Made) -> None:
        batch, worker = launch.batch, self._worker
        self.under_way.difference_update(map(launch.batch.job_id, launch.jobs))
        waiting = list(made.waiting)
        if worker is None or worker.epoch != launch.epoch:
            # The executor went, or another came, before it was told of them: for certain they did not start.
            waiting += self._take_out(made, lambda _: True)
        else:
            # The executor passes over the stop of a job that it has not got.
            waiting += self._take_out(made, lambda order: self._is_stopping(order.id))
        if made.orders and worker is not None:
            self._observer.jobs_ordered(batch.header, [order.index for order in made.orders], launch.at)
            worker.start(made.orders)
        if made.short is not None:
            self._log.error(
                "jobs wait: the service is short of something",
                correlation_id=batch.header.correlation_id,
                jobs=len(waiting),
                problem=str(made.short),
            )
        if waiting or made.refused:
            ends = [(index, self._end(batch, index, error)) for index, error in made.refused]
            self._failed(batch, waiting, ends, made.short is not None)

    @staticmethod
    def _take_out(made: _Made, unwanted: Callable[[Order], bool]) -> list[int]:
        """Orders that are not to be sent; their indexes."""
        kept, out = [], []
        for order in made.orders:
            if unwanted(order):
                close_files(order)
                out.append(order.index)
            else:
                kept.append(order)
        made.orders = kept
        return out

    def _end(self, batch: ActiveBatch, index: int, error: CannotOrderError) -> JobEnd:
        self._log.error(
            "a job cannot be started", correlation_id=batch.header.correlation_id, job_index=index, problem=str(error)
        )
        return JobEnd(
            state=JobState.FAILED,
            reason=error.reason,
            detail=str(error),
            ended_at=self._clock_ns(),
            log_bytes=(0,) * error.logs,
        )


def _make(launch: _Launch, settings: RunSettings, disk: Disk, uid_of: Callable[[str], int | None] | None) -> _Made:
    """Opens the files, and finds out whom the jobs run as; in a thread."""
    made = _Made()
    if launch.batch.content:  # its folder is written later
        try:
            disk.make_folder(launch.batch.folder)
        except FileExistsError:
            pass
        except OSError as e:
            made.short, made.waiting = e, list(launch.jobs)
            return made
    uid = None
    try:
        if uid_of is not None:
            uid = uid_of(launch.batch.header.user)
    except NoUidError as e:
        error = CannotOrderError(str(e), reason=EndReason.SPAWN_FAILED, logs=1)
        made.refused = [(index, error) for index in launch.jobs]
        return made
    except OSError as e:
        made.short, made.waiting = e, list(launch.jobs)
        return made
    for position, index in enumerate(launch.jobs):
        try:
            made.orders.append(make_order(launch.batch, index, settings, uid=uid))
        except CannotOrderError as e:
            made.refused.append((index, e))
        except OSError as e:
            made.short, made.waiting = e, list(launch.jobs[position:])
            break
    return made


def _close(made: _Made) -> None:
    for order in made.orders:
        close_files(order)
    made.orders = []
