"""The real commit log and ledger over a folder."""

from __future__ import annotations

import threading
import time
from typing import Any

from jobworker.server.store.batches import Batches
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import Layout
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.recovery import Recovered, recover


class GatedDisk(Disk):
    """The real one, whose commits wait while the gate is shut, and fail while there is an error."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.error: OSError | None = None
        self.commits = 0

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        self.gate.wait()
        if self.error is not None:
            raise self.error
        super().write_synced(fd, data, at)
        self.commits += 1


def make_ledger(layout: Layout, batches: Batches, log: Any, *, boot: str = "boot", **options: Any) -> Ledger:
    """On the event loop; `begin_ledger` and `close` are the caller's."""
    return Ledger(
        layout=layout,
        batches=batches,
        boot=boot,
        log=log,
        timed=lambda _seconds, _failed: None,
        clock=time.monotonic,
        **options,
    )


def begin_ledger(ledger: Ledger, layout: Layout, *, boot: str = "boot") -> Recovered:
    """As app.py does it."""
    found = recover(layout=layout, disk=ledger.disk, boot=boot, report=lambda _path, _what: None)
    ledger.begin(found)
    return found
