"""Every call on the disk fails once, and for a while: nothing that was acknowledged is lost, no job hangs or runs
twice, and the service goes on when the disk works again."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jobworker.server.errors import JobworkerError
from jobworker.server.model import JobState
from jobworker.server.store import ledger as ledger_module
from jobworker.server.store import projector as projector_module
from jobworker.server.store.disk import Disk
from tests.store.test_power_loss import Run, Service, found_after

T = TypeVar("T")


class FailingDisk(Disk):
    """Fails from the n-th call on, so many times."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = range(0)
        self.error = errno.EIO
        self.ops: list[object] = []  # when something was told does not matter here

    def _call(self, do: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls in self.fails:
            raise OSError(self.error, os.strerror(self.error))
        return do()

    def create(self, path: str) -> int:
        return self._call(lambda: super(FailingDisk, self).create(path))

    def open(self, path: str) -> int:
        return self._call(lambda: super(FailingDisk, self).open(path))

    def write(self, fd: int, data: Any, at: int) -> None:
        self._call(lambda: super(FailingDisk, self).write(fd, data, at))

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        self._call(lambda: super(FailingDisk, self).write_synced(fd, data, at))

    def reserve(self, fd: int, size: int) -> None:
        self._call(lambda: super(FailingDisk, self).reserve(fd, size))

    def truncate(self, fd: int, size: int) -> None:
        self._call(lambda: super(FailingDisk, self).truncate(fd, size))

    def sync(self, fd: int) -> None:
        self._call(lambda: super(FailingDisk, self).sync(fd))

    def sync_folder(self, path: str) -> None:
        self._call(lambda: super(FailingDisk, self).sync_folder(path))

    def sync_all(self, folder: str) -> None:
        self._call(lambda: super(FailingDisk, self).sync_all(folder))

    def make_folder(self, path: str) -> None:
        self._call(lambda: super(FailingDisk, self).make_folder(path))

    def rename(self, old: str, new: str) -> None:
        self._call(lambda: super(FailingDisk, self).rename(old, new))

    def remove(self, path: str) -> None:
        self._call(lambda: super(FailingDisk, self).remove(path))


BATCHES: list[tuple[list[str], dict[str, object]]] = [
    (["true"], {}),
    (["true", "false"] * 3, {"parallelism": 2}),
    (["true " + "x" * 3000] * 25, {"parallelism": 3}),
    (["false", "true", "true"], {"parallelism": 1, "fail_fast": True}),
]


async def play(root: Path, disk: FailingDisk, fails: range, error: int) -> tuple[Run, dict[str, int]]:
    """Submits the batches one after another, each again until it is taken, and lets the executor die before it has
    started the last one's; returns what was told, and the jobs of each batch that was acknowledged."""
    run = Run(disk)  # type: ignore[arg-type]
    service = Service(root, run)
    disk.calls, disk.fails, disk.error = 0, fails, error
    accepted: dict[str, int] = {}
    for number, (commands, options) in enumerate(BATCHES, 1):
        if number == len(BATCHES):
            await service.quiet()
            service.worker.holds = True
        async with asyncio.timeout(30):
            while True:
                try:
                    await service.submit(*commands, **options)
                except (JobworkerError, OSError):
                    await asyncio.sleep(0.002)
                else:
                    break
        accepted[run.told[-1][2] if run.told[-1][1] == "accepted" else _last(run)] = len(commands)
    async with asyncio.timeout(30):
        while not service.worker.waiting:
            await asyncio.sleep(0.001)
    service.worker.holds = False
    service.worker.die(next_epoch="e2")
    await service.quiet()
    assert all(count == 1 for count in service.worker.times_started.values()), service.worker.times_started
    assert not service.worker.ended, "the ends that were told are acknowledged"
    assert service.ledger.running == 0
    await service.close()
    return run, accepted


def _last(run: Run) -> str:
    return next(name for _, what, name, _ in reversed(run.told) if what == "accepted")


def check(root: Path, accepted: dict[str, int], run: Run) -> None:
    batches, problems = found_after(root)
    assert problems == []
    for name, jobs in accepted.items():
        assert batches[name].job_count == jobs
        assert batches[name].state.final
    ended = Counter(name for _, what, name, _ in run.told if what == "ended")
    assert set(ended.values()) == {1}, "each job ends once"
    for _, what, name, end in run.told:
        if what == "ended":
            correlation_id, _, number = name.partition("/")
            assert batches[correlation_id].job_state(int(number)) is JobState(end.state)  # type: ignore[attr-defined]
    for batch in batches.values():
        batch.close()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again at once, and not after a second: there are hundreds of runs."""
    monkeypatch.setattr(ledger_module, "_RETRY_SECONDS", 0.002)
    monkeypatch.setattr(projector_module, "_RETRY_SECONDS", 0.002)


def count_calls(root: Path) -> int:
    root.mkdir()
    disk = FailingDisk()
    _, accepted = asyncio.run(play(root, disk, range(0), 0))
    assert len(accepted) == len(BATCHES)
    return disk.calls


@pytest.mark.parametrize(
    ("error", "times"), [(errno.EIO, 1), (errno.ENOSPC, 7), (errno.EMFILE, 1)], ids=["EIO", "ENOSPC", "EMFILE"]
)
def test_whichever_call_fails_nothing_is_lost_and_all_comes_to_an_end(tmp_path: Path, error: int, times: int) -> None:
    calls = count_calls(tmp_path / "whole")
    assert calls > 50
    for first in range(1, calls + 1):
        root = tmp_path / str(first)
        root.mkdir()
        disk = FailingDisk()
        run, accepted = asyncio.run(play(root, disk, range(first, first + times), error))
        check(root, accepted, run)
