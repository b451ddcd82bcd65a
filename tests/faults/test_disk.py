"""The means themselves: a power failure loses what was not synced and nothing else, and the next start is in another
life of the machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import Disk
from tests.faults.history import Death, History
from tests.faults.rig import Rig

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "service/data", tmp_path / "image", mib=16)
    try:
        disk.make()
        yield disk
    finally:
        disk.close()


def write(path: Path, *, synced: bool) -> None:
    """A file, and its entry in the folder."""
    with path.open("wb") as file:
        file.write(b"x" * 10_000)
        file.flush()
        if synced:
            os.fsync(file.fileno())


def test_a_power_failure_loses_what_was_not_synced_and_nothing_else(disk: Disk) -> None:
    write(disk.place / "synced", synced=True)
    write(disk.place / "not synced", synced=False)
    disk.cut()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(disk.place / "later", synced=False)
    disk.unmount()
    disk.mount()
    assert (disk.place / "synced").read_bytes() == b"x" * 10_000
    assert not (disk.place / "not synced").exists()
    assert not (disk.place / "later").exists()


def test_what_the_kernel_has_written_back_by_itself_may_survive_once_a_later_sync_commits_it(disk: Disk) -> None:
    write(disk.place / "not synced", synced=False)
    disk.write_back(str(disk.place / "not synced"))
    write(disk.place / "synced", synced=True)
    disk.cut()
    disk.unmount()
    disk.mount()
    assert (disk.place / "not synced").exists()  # its entry at least, and some of its bytes


def test_a_disk_leaves_no_mount_and_no_loop_device(disk: Disk) -> None:
    disk.close()
    assert str(disk.place) not in Path("/proc/self/mounts").read_text()
    backing = [p.read_text().strip() for p in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert str(disk.image) not in backing


def test_after_a_power_failure_the_service_starts_in_another_life_of_the_machine(disk: Disk, tmp_path: Path) -> None:
    history = History()
    rig = Rig(tmp_path / "service", history, LIMITS__FREE_DISK_BYTES="0")
    seen = [Path("/proc/sys/kernel/random/boot_id").read_text()]
    try:
        rig.start()
        rig.shoot(Death.MACHINE)
        disk.cut()
        rig.buried()
        disk.unmount()
        disk.mount()
        rig.reboot()
        rig.start()
        seen.append(Path(f"/proc/{rig.pid('server')}/root/proc/sys/kernel/random/boot_id").read_text())
    finally:
        rig.stop()
    assert seen[0] != seen[1]
    assert [died.kind for died in history.deaths] == [Death.MACHINE]
