"""The data folder when the server starts: taken for its own, and brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.errors import DamagedError
from jobworker.server.reach import StartError
from jobworker.server.store.layout import DataInUseError, Layout
from jobworker.server.store.recovery import Recovered, recover

if TYPE_CHECKING:
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
        ledger.begin(found.batches, found.segments)
    except DamagedError as e:
        raise StartError(f"{e.path}: {e}") from e
    except OSError as e:
        raise StartError(f"{e.filename or layout.data}: the stored batches cannot be recovered: {e.strerror}") from e
    log.info(
        "recovered", unfinished=len(found.batches), lost=len(found.lost), removed=found.removed, damaged=found.set_aside
    )
    return found
