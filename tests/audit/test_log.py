"""The audit log while the service runs: whom it has wait for what, and one sync for many."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobworker.server.audit.log import AuditLog
from jobworker.server.audit.share import OF_ALL_MOST, OF_ONE_MOST, FailureShare
from jobworker.server.store.disk import Disk
from tests.harness.audit import lines
from tests.rpc.conftest import Lines


class Slow(Disk):
    """Its syncs wait until they may, and are counted; they fail with `error`."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.entered = threading.Event()
        self.synced = 0
        self.error: OSError | None = None

    def _sync(self) -> None:
        self.entered.set()
        assert self.may.wait(60)
        self.synced += 1
        if self.error is not None:
            raise self.error

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        self._sync()
        super().write_synced(fd, data, at)

    def sync(self, fd: int) -> None:
        self._sync()
        super().sync(fd)


class Opened:
    """A log over such a disk."""

    def __init__(self, folder: Path, *, slow_seconds: float = 60.0) -> None:
        self.disk, self.service_log, self.lost = Slow(), Lines(), 0
        self.log = AuditLog(
            str(folder), storage=self.disk, max_bytes=1 << 20, files=2, log=self.service_log,
            lost=self._lose, clock_ns=time.time_ns, slow_seconds=slow_seconds,
        )  # fmt: skip

    def _lose(self, count: int) -> None:
        self.lost += count


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    found = Opened(tmp_path)
    yield found
    found.disk.may.set()
    found.disk.error = None
    await found.log.close({"what": "server.stop"})


async def test_many_lines_share_a_sync_and_each_waits_for_its_own(opened: Opened, tmp_path: Path) -> None:
    disk = opened.disk
    disk.may.clear()
    first = opened.log.append({"what": "login"})
    assert await asyncio.to_thread(disk.entered.wait, 60)
    others = [opened.log.append({"what": "login"}) for _ in range(100)]
    assert not first.done()
    disk.may.set()
    await first
    await asyncio.gather(*others)
    assert disk.synced == 2
    assert len(lines(tmp_path)) == 101


async def test_a_line_that_does_not_wait_for_its_sync_is_written_and_synced_soon(
    opened: Opened, tmp_path: Path
) -> None:
    await asyncio.gather(*(opened.log.append({"what": "submit"}, sync=False) for _ in range(10)))
    assert opened.disk.synced == 0
    assert len(lines(tmp_path)) == 10
    assert await asyncio.to_thread(opened.disk.entered.wait, 60), "by itself"
    # And one that waits has all before it synced too.
    await opened.log.append({"what": "submit"}, sync=False)
    await opened.log.append({"what": "login"})
    assert lines(tmp_path)[-1]["what"] == "login"


async def test_lines_that_cannot_be_written_are_counted_and_nobody_waits_for_ever(
    opened: Opened, tmp_path: Path
) -> None:
    await opened.log.append({"what": "login"})
    opened.disk.error = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(3):
        await opened.log.append({"what": "login"})
    assert opened.lost == 3
    assert opened.log.problem == "audit lines cannot be written: No space left on device"
    assert len(opened.service_log.of("audit")) == 1, "told once"
    opened.disk.error = None
    await opened.log.append({"what": "login"})
    assert opened.log.problem is None
    assert [(line["what"], line.get("count")) for line in lines(tmp_path)] == (
        [("login", None), ("audit.lost", 3), ("login", None)]
    )


async def test_a_disk_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    opened = Opened(tmp_path, slow_seconds=0.05)
    opened.disk.may.clear()
    await opened.log.append({"what": "login", "user": "a"})
    assert opened.log.problem is not None
    await opened.log.append({"what": "login", "user": "b"})
    opened.disk.may.set()
    while opened.log.problem is not None:
        await asyncio.sleep(0)
    await opened.log.close({"what": "server.stop"})
    assert [line.get("user") for line in lines(tmp_path)] == ["a", "b", None]
    assert opened.lost == 0


async def test_of_failed_calls_so_many_are_told_of_one_caller_and_in_all() -> None:
    told: list[dict[str, object]] = []
    share = FailureShare(tell=told.append)
    assert sum(share.take("alice", "TOKEN_MISSING") for _ in range(1000)) == OF_ONE_MOST
    assert share.take("bob", "LOGIN_FAILED")
    taken = sum(share.take(f"user{number}", "TOKEN_EXPIRED") for number in range(5000))
    assert taken == OF_ALL_MOST - OF_ONE_MOST - 1
    assert told == []
    share.end()
    (line,) = told
    assert line["count"] == 1000 - OF_ONE_MOST + 5000 - taken
    assert sum(line["callers"].values()) == line["count"]  # type: ignore[attr-defined]
    assert len(line["callers"]) <= 11  # type: ignore[arg-type]
    assert line["callers"]["alice"] == 1000 - OF_ONE_MOST  # type: ignore[index]
    assert line["reasons"] == {"TOKEN_MISSING": 1000 - OF_ONE_MOST, "TOKEN_EXPIRED": 5000 - taken}
    assert share.take("alice", "TOKEN_MISSING"), "another window"
    share.end()
    assert len(told) == 1
