"""What the disk is told to do: failed syncs are counted."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path

from prometheus_client import parser

from jobworker.server.store.commitlog import CommitLog
from jobworker.server.telemetry.metrics import Metrics
from tests.harness.figures import Figures
from tests.harness.ledger import GatedDisk


async def test_a_commit_that_fails_is_counted_as_failed(tmp_path: Path) -> None:
    metrics = Metrics(clock=time.time, monotonic=time.monotonic)
    disk, told = GatedDisk(), asyncio.Event()
    log = CommitLog(
        folder=str(tmp_path), disk=disk, boot="b", full=lambda _: None, failed=lambda _: told.set(),
        timed=metrics.synced, clock=time.monotonic,
    )  # fmt: skip
    try:
        log.use(log.make(1))
        log.append(b"a frame\n", lambda _: told.set())
        await asyncio.wait_for(told.wait(), 60)
        told.clear()
        disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
        log.append(b"a frame\n", lambda _: None)
        await asyncio.wait_for(told.wait(), 60)
        text, _ = await metrics.text("")
    finally:
        log.close()
        metrics.close()
    now = Figures(list(parser.text_string_to_metric_families(text.decode())))
    assert now.value("jobworker_fsync_failed_total") == 1
    assert now.value("jobworker_fsync_seconds_count") == 2
