"""A worker that runs nothing: it starts and ends what it is ordered to, as an executor would tell it, and notes all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jobworker.server.model import EndReason, JobEnd, JobState
from jobworker.server.scheduling.order import close_files
from jobworker.server.scheduling.worker import ExecutorSnapshot, Listener, Order

ENDS = (
    JobEnd(JobState.SUCCEEDED, EndReason.EXITED, exit_code=0, waited=True, started_at=5, ended_at=9, log_bytes=(0,)),
    JobEnd(JobState.FAILED, EndReason.EXITED, exit_code=3, waited=True, started_at=6, ended_at=8, log_bytes=(0,)),
)


class ModelWorker:
    """A Worker. Jobs of even index succeed, others fail. While it `holds`, it starts none."""

    def __init__(self, *, epoch: str, note: Callable[[str, str], object]) -> None:
        """`note` is told what is done with each job: sent, stopped, acknowledged."""
        self.epoch: str | None = epoch
        self.epochs = 1
        self.listener: Listener | None = None
        self.holds = False
        self.waiting: set[str] = set()
        self.never_started: dict[str, str] = {}
        self.running: dict[str, int] = {}
        self.ended: dict[str, JobEnd] = {}
        self.times_started: dict[str, int] = {}
        self._note = note

    def start(self, orders: list[Order]) -> None:
        for order in orders:
            close_files(order)
            self._note("sent", order.id)
            if self.holds:
                self.waiting.add(order.id)
                continue
            self.times_started[order.id] = self.times_started.get(order.id, 0) + 1
            self.running[order.id] = 5
        asyncio.get_running_loop().call_soon(self._started, [order.id for order in orders if order.id in self.running])

    def _started(self, ids: list[str]) -> None:
        assert self.listener is not None
        self.listener.started([(job_id, 5) for job_id in ids if job_id in self.running])
        asyncio.get_running_loop().call_soon(self._end, ids)

    def _end(self, ids: list[str]) -> None:
        assert self.listener is not None
        for job_id in ids:
            if self.running.pop(job_id, None) is not None:
                self.ended[job_id] = ENDS[int(job_id.rpartition("/")[2]) % 2]
        self.listener.ended([(job_id, self.ended[job_id]) for job_id in ids if job_id in self.ended])

    def uid_of(self, user: str) -> int | None:
        return None

    def stop(self, ids: list[str], grace_seconds: float | None, *, interrupt: bool = False) -> None:
        for job_id in ids:
            self._note("stopped", job_id)

    def acknowledge(self, ids: list[str], *, at_once: bool = False) -> None:
        for job_id in ids:
            if not at_once:  # that would be of one that did not start
                self._note("acknowledged", job_id)
            self.ended.pop(job_id, None)

    def attach(self) -> None:
        """Tells its snapshot."""
        assert self.listener is not None
        self.listener.attached(
            ExecutorSnapshot(
                epoch=self.epoch or "",
                isolation="none",
                isolation_detail="",
                tree="",
                since=None,
                waiting=frozenset(self.waiting),
                running=dict(self.running),
                ended=dict(self.ended),
                never_started=self.never_started,
            )
        )

    def die(self, *, next_epoch: str) -> None:
        """The executor dies, with what it was sent; the next one is there."""
        self.never_started = dict.fromkeys(self.waiting, self.epoch or "")
        for job_id in self.waiting:
            self._note("never started", job_id)
        self.waiting.clear()
        self.running.clear()
        self.ended.clear()
        self.epoch = next_epoch
        self.attach()

    def tell_again(self) -> None:
        self.attach()

    def over(self, correlation_id: str) -> None:
        """It has no work folders."""

    def unfinished(self, correlation_ids: list[str]) -> None:
        """It has no work folders."""
