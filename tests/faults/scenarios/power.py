"""The power fails: all processes die at once, and of the data disk there is what was synced, and some of the rest.

The disk is ext4 on a loop device. Its shutdown call drops every page that was not written and every record of the
journal that was not committed; mounting it again plays the journal, as after a power failure. Before that the kernel is
made to write back pages of some files, which it does at any time by itself. What this does not show is a drive that
loses what it was told to write before it was told to flush.
"""

from __future__ import annotations

import os

from tests.faults.disk import Disk
from tests.faults.history import Death
from tests.faults.trial import Trial

# How ext4 orders data and metadata: what a machine may have as well as the default.
_MODES = (("nodelalloc",), ("data=journal",))
_WRITEBACK = (("data=writeback",), ("data=writeback", "nodelalloc"))


def ordered(trial: Trial) -> None:
    """With ext4 as it is mounted everywhere."""
    _fail(trial, ())


def others(trial: Trial) -> None:
    """With other ways of ext4 to order data and metadata, a round each."""
    _fail(trial, *_MODES)


def writeback(trial: Trial) -> None:
    """With those that order nothing. A log may hold what other files had held before (ext4(5)): the documented limit.
    All other promises hold."""
    trial.history.old_bytes = True
    _fail(trial, *_WRITEBACK)


def _fail(trial: Trial, *modes: tuple[str, ...]) -> None:
    service = trial.rig.service
    # Room for all rounds: each job has a log of its own.
    disk = Disk(service.data, service.folder.with_name("power.img"), mib=512, inodes=131_072, options=modes[0])
    try:
        disk.make()
        with trial.service():
            for number, faults in enumerate(trial.rounds(1)):
                for _ in faults:
                    trial.pause(0.3, 4.0)
                    _write_some_back(trial, disk)
                    trial.rig.shoot(Death.MACHINE)
                    disk.cut()
                    trial.rig.buried()
                    disk.unmount()
                    disk.options = modes[(number + 1) % len(modes)]
                    disk.mount()
                    trial.rig.reboot()
                    trial.rig.start()
    finally:
        disk.close()


def _write_some_back(trial: Trial, disk: Disk) -> None:
    share = trial.dice.choice((0.0, 0.3, 0.9))
    # os.walk passes over folders that are moved meanwhile, as those of batches that end are.
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(disk.place / "active") for name in names]
    for path in sorted(paths):
        if trial.dice.random() < share:
            disk.write_back(path)
