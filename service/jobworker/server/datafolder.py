"""The data folder when the server starts: taken for its own, and brought up to date; and what is wrong with it then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.errors import DamagedError
from jobworker.server.reach import StartError
from jobworker.server.store.layout import DataInUseError, Layout
from jobworker.server.store.recovery import Recovered, recover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobworker.server.audit.log import AuditLog
    from jobworker.server.scheduling.local import LocalWorker
    from jobworker.server.store.ledger import Ledger
    from jobworker.server.telemetry.log import Log


def lock(layout: Layout) -> int:
    """Makes the folders; returns the descriptor of their lock.

    Raises:
        StartError: another server has it, or it cannot be used.
    """
    try:
        return layout.prepare()
    except DataInUseError as e:
        raise StartError(str(e)) from e
    except OSError as e:
        raise StartError(f"{e.filename}: the data folder cannot be used: {e.strerror}") from e


def recovered(layout: Layout, ledger: Ledger, *, boot: str, log: Log) -> Recovered:
    """What the server before left unfinished, durable again.

    Raises:
        StartError: it cannot be read, or made durable.
    """
    try:
        found = recover(
            layout=layout,
            disk=ledger.disk,
            boot=boot,
            report=lambda path, what: log.error("damage", path=path, problem=what),
        )
        ledger.begin(found)
    except DamagedError as e:
        raise StartError(f"{e.path}: {e}") from e
    except OSError as e:
        raise StartError(f"{e.filename or layout.data}: the stored batches cannot be recovered: {e.strerror}") from e
    log.info(
        "recovered", unfinished=len(found.batches), lost=len(found.lost), removed=found.removed, damaged=found.set_aside
    )
    return found


def problems(ledger: Ledger, found: Recovered, worker: LocalWorker, audit: AuditLog) -> Iterator[str]:
    """What is wrong with the durable state, or with what jobs need, in words for whoever runs the service."""
    if audit.problem is not None:
        yield audit.problem
    if ledger.problem is not None:
        yield f"nothing can be recorded, no batch is taken and no job started: {ledger.problem.strerror}"
    if worker.short is not None:
        yield f"orders wait: the executor is short of {worker.short.what}"
    if found.set_aside:
        yield f"batches that could not be read and were set aside at the start: {found.set_aside} (data/damaged)"
