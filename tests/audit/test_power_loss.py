"""After a power failure at any moment the chain is whole, and no line is gone that was said to be on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobpki.auditfile import AuditFile
from jobpki.auditverify import files_of, verify
from jobworker.server.store.disk import Disk
from tests.harness.audit import files
from tests.harness.crashdisk import RecordingDisk, images

TIME = "2026-01-01T00:00:00.000000Z"
KEPT = 50


def run(disk: RecordingDisk, folder: Path) -> list[tuple[int, int]]:
    """Writes some hundred lines; returns (calls of the disk by then, number of the last line that is on disk)."""
    told = []
    file = AuditFile(str(folder), storage=disk, max_bytes=1500, files=KEPT, time=lambda: TIME)
    for number in range(40):
        sync = number % 3 != 1
        file.append([{"time": TIME, "what": "login", "user": f"u{number}"}] * (1 + number % 2), sync=sync)
        if file.synced:
            told.append((len(disk.ops), file.last_number))
    file.close()
    return told


def losses(disk: RecordingDisk, told: list[tuple[int, int]], place: Path) -> Iterator[str]:
    """What is wrong with the folders that could be found after a power failure."""
    for moment, folder in images(disk, place, first=0, seed=7):
        again = AuditFile(str(folder), storage=Disk(), max_bytes=1500, files=KEPT, time=lambda: TIME)
        again.append([{"time": TIME, "what": "server.start"}], sync=True)
        again.close()
        (log,) = files_of([folder])
        found = verify(log)
        if found.faults:
            yield f"{moment}: {found.faults}"
        held = max((number for at, number in told if at <= moment), default=0)
        if found.last.number <= held:
            yield f"{moment}: {found.last.number - 1} of {held} lines are there"
        if any("older files" in note for note in found.notes):
            yield f"{moment}: the first lines are gone"


def test_a_power_failure_at_any_moment_takes_no_line_that_was_synced(tmp_path: Path) -> None:
    root, place = tmp_path / "root", tmp_path / "images"
    root.mkdir()
    place.mkdir()
    disk = RecordingDisk(root)
    told = run(disk, root)
    assert len(files(root)) > 3
    assert list(losses(disk, told, place)) == []


@pytest.mark.parametrize("call", ["write_synced", "sync", "sync_folder"])
def test_without_any_one_of_the_syncs_lines_would_be_lost(tmp_path: Path, call: str) -> None:
    root, place = tmp_path / "root", tmp_path / "images"
    root.mkdir()
    place.mkdir()
    disk = RecordingDisk(root, skip=lambda name, _path: name == call)
    told = run(disk, root)
    assert next(losses(disk, told, place), None) is not None
