"""Makes the order of a job: its request, what the service adds to it, and the open files it is to have."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from jobworker.server.errors import DamagedError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import EndReason, LogPolicy
from jobworker.server.scheduling.worker import Order
from jobworker.server.store.active import ActiveBatch
from jobworker.server.telemetry.tracecontext import job_traceparent


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How jobs are run when they do not say."""

    running_jobs: int
    timeout_seconds: float | None
    grace_seconds: float
    linger_seconds: float
    log_bytes: int | None
    log_policy: LogPolicy = LogPolicy.END
    sampled: Callable[[CorrelationId], bool] = lambda _: True  # whether a batch's trace is kept


class CannotOrderError(Exception):
    """A job cannot be started, and never will be; `logs` is how many it would have."""

    def __init__(self, detail: str, *, reason: EndReason, logs: int) -> None:
        super().__init__(detail)
        self.reason = reason
        self.logs = logs


def make_order(batch: ActiveBatch, index: int, settings: RunSettings, *, uid: int | None = None) -> Order:
    """Reads the job and opens its files. Blocks; any thread. `uid`: whom it runs as, see `Order`.

    Raises:
        CannotOrderError: it can never be started; nothing stays open.
        OSError: it cannot be now: the service is short of something; nothing stays open.
    """
    try:
        spec = batch.reader.spec(index)
    except DamagedError as e:
        raise CannotOrderError(str(e), reason=EndReason.DAMAGED, logs=1) from e
    streams = spec.output.streams
    opened: list[int] = []
    try:
        for stream in streams:
            opened.append(_open_log(batch.log_path(index, stream)))  # noqa: PERF401 - those opened are closed on failure
        stdin = _stdin(spec.stdin) if spec.stdin else None
    except OSError as e:
        for fd in opened:
            os.close(fd)
        if isinstance(e, FileExistsError):
            detail = "its log is there already, and not empty"
            raise CannotOrderError(detail, reason=EndReason.DAMAGED, logs=len(streams)) from e
        raise
    return Order(
        id=batch.job_id(index),
        index=index,
        slots=batch.header.parallelism,
        spec=spec,
        env={**_marks(batch.header.correlation_id, index, settings), **spec.env},
        timeout_seconds=spec.timeout_seconds if spec.timeout_seconds is not None else settings.timeout_seconds,
        grace_seconds=settings.grace_seconds,
        linger_seconds=settings.linger_seconds,
        log_bytes=_least(spec.limits.log_bytes, settings.log_bytes),
        logs=opened,
        stdin=stdin,
        log_policy=spec.log_policy or settings.log_policy,
        uid=uid,
    )


def close_files(order: Order) -> None:
    """Of an order that is not sent."""
    for fd in order.logs:
        os.close(fd)
    if order.stdin is not None:
        os.close(order.stdin)


def _marks(correlation_id: CorrelationId, index: int, settings: RunSettings) -> dict[str, str]:
    """What tells a job who it is, and which span of its batch's trace it runs in."""
    return {
        "JOBWORKER_CORRELATION_ID": correlation_id,
        "JOBWORKER_JOB_INDEX": str(index),
        "TRACEPARENT": job_traceparent(correlation_id, index, sampled=settings.sampled(correlation_id)),
    }


def _open_log(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, flags, 0o600)
    except FileExistsError:
        # Ordered before, and the order never arrived: then nothing was written, and the file may be used.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        if os.fstat(fd).st_size:
            os.close(fd)
            raise
        return fd


def _stdin(data: bytes) -> int:
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        # A descriptor of its own, so that the job can neither write nor see where the writer stood.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _least(a: int | None, b: int | None) -> int | None:
    return min((x for x in (a, b) if x is not None), default=None)
