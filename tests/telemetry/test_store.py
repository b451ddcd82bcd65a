"""What the disk is told to do: failed syncs are counted, and the size of the store is known without walking it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from pathlib import Path

from prometheus_client import parser

from jobworker.server.store.commitlog import CommitLog
from jobworker.server.telemetry.metrics import Metrics
from tests.harness.figures import Figures, scrape, until_value
from tests.harness.ledger import GatedDisk
from tests.harness.service import Service, running
from tests.harness.wait import until

STORED = "jobworker_store_bytes"


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


def lengths(service: Service) -> int:
    """Of all files of finished batches; what is removed meanwhile counts as nothing."""
    total = 0
    for folder, _, names in os.walk(service.data / "batches"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(f"{folder}/{name}").st_size
    return total


def run(service: Service, *commands: str) -> None:
    api = service.api()
    api.wait(api.submit(*commands))
    until(lambda: not any((service.data / "active").iterdir()), "it is stored")


def until_told(service: Service) -> int:
    """Waits until the store's size is told as it is."""
    wanted = lengths(service)
    until_value(service, STORED, wanted)
    return wanted


def test_the_stores_size_follows_what_finishes_and_outlives_a_killed_server(service: Service, scratch: Path) -> None:
    run(service, "head -c 123456 /dev/zero", "exit 3")
    assert until_told(service) > 123_456
    api, go = service.api(), scratch / "go"
    batch = api.submit("echo first", f"until [ -e {go} ]; do sleep 0.05; done; head -c 1000 /dev/zero")
    until(lambda: api.get(batch).counts.succeeded == 1, "the first has ended")
    service.kill_server()
    service.ready()
    until_told(service)
    go.touch()
    api.wait(batch)  # accepted by a server that is gone: its folder is measured
    until(lambda: not any((service.data / "active").iterdir()), "it is stored")
    until_told(service)


def test_a_store_whose_size_is_not_known_is_counted_once(service: Service) -> None:
    for number in range(20):
        run(service, f"head -c {number} /dev/zero")
    service.stop()
    (service.data / "stored_bytes").write_bytes(b"")
    service.start()
    counted = until_told(service)
    service.stop()
    (service.data / "batches" / "stray").mkdir()
    (service.data / "batches" / "stray" / "file").write_bytes(b"x" * 1000)
    service.start()  # it is not looked at again
    until(lambda: scrape(service.metrics_port).of(STORED), "it is known")
    assert scrape(service.metrics_port).value(STORED) == counted


def test_what_retention_removes_is_taken_away(tmp_path: Path) -> None:
    with running(tmp_path / "service", RETENTION__FINISHED_SECONDS="1") as service:
        run(service, "head -c 123456 /dev/zero")
        until(lambda: lengths(service) == 0, "it is removed")
        until_value(service, STORED, 0)
