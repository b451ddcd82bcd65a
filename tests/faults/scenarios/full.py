"""A data disk without room, or without inodes, for a while. Nothing may be LOST."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.faults.disk import Disk
from tests.faults.trial import Trial
from tests.harness.fill import fill

_MIB = 96
_INODES = 30_000  # each job has a log of its own, and the last thousand are kept free


def blocks(trial: Trial) -> None:
    """Not a byte goes in."""
    _fill(trial, kind="ext4", inodes=None)


def inodes(trial: Trial) -> None:
    """Not a file goes in."""
    _fill(trial, kind="tmpfs", inodes=_INODES)


def _fill(trial: Trial, *, kind: str, inodes: int | None) -> None:
    service = trial.rig.service
    trial.expect_disk_full()
    disk = Disk(service.data, service.folder.with_name("full.img"), kind, mib=_MIB, inodes=inodes)
    try:
        disk.make()
        with trial.service():
            for faults in trial.rounds(4):
                for _ in faults:
                    trial.pause(0.2, 1.5)
                    filler = disk.place / "filler"
                    try:
                        _fill_files(filler) if inodes else fill(filler)
                        trial.pause(0.2, 3.0)
                    finally:
                        _empty(filler)
    finally:
        disk.close()


def _fill_files(filler: Path) -> None:
    filler.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):
        for number in range(1 << 20):
            (filler / str(number)).touch()


def _empty(filler: Path) -> None:
    if filler.is_dir():
        for path in filler.iterdir():
            path.unlink()
        filler.rmdir()
    else:
        filler.unlink(missing_ok=True)
