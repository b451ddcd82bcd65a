"""The faults: what each is, how often it is injected, what it needs of the machine, and its scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

from tests.faults import disk
from tests.faults.scenarios import cuts, descriptors, eio, full, kills, power, stops
from tests.faults.trial import Trial


@dataclass(frozen=True)
class Fault:
    """One row. `cannot` says why this machine is not able to have it; empty where it is."""

    what: str
    count: int
    short: int  # in the form of five minutes
    scenario: Callable[[Trial], None]
    cannot: Callable[[], str] = lambda: ""
    settings: Mapping[str, str] = field(default_factory=dict)


_no_ext4 = cache(partial(disk.cannot, "ext4"))
_no_tmpfs = cache(partial(disk.cannot, "tmpfs"))

# Batches are taken in up to the last byte: the service is to meet a full disk itself, not only to refuse before it.
SMALL_DISK = {"LIMITS__FREE_DISK_BYTES": "0"}

FAULTS: dict[str, Fault] = {
    "server": Fault("kill -9 of the server", 200, 20, kills.server),
    "executor": Fault("kill -9 of the executor", 50, 8, kills.executor),
    "supervisor": Fault("kill -9 of the supervisor", 20, 4, kills.supervisor),
    "all": Fault("kill -9 of all", 20, 4, kills.everything),
    "stop": Fault("SIGSTOP, and SIGCONT later", 30, 5, stops.stop),
    "power": Fault("power failure (ext4)", 50, 4, power.ordered, _no_ext4, SMALL_DISK),
    "power-modes": Fault("power failure (ext4, other modes)", 30, 3, power.others, _no_ext4, SMALL_DISK),
    "power-writeback": Fault("power failure (data=writeback)", 10, 2, power.writeback, _no_ext4, SMALL_DISK),
    "disk-full": Fault("no room on the data disk", 20, 4, full.blocks, _no_ext4, SMALL_DISK),
    "inodes": Fault("no inodes on the data disk", 20, 4, full.inodes, _no_tmpfs, SMALL_DISK),
    "descriptors": Fault("few descriptors", 30, 5, descriptors.few),
    "cut": Fault("cut connections", 100, 20, cuts.cut),
    "eio": Fault("EIO from the data disk", 20, 1, eio.disk, _no_ext4, SMALL_DISK),
}
SHORT_SECONDS = 300.0
