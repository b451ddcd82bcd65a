"""What time it is, by the clocks that a time is kept by which is to be right over restarts, and when a clock is set."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Now:
    """One moment by three clocks: Unix nanoseconds; nanoseconds since the machine started (CLOCK_BOOTTIME, which nobody
    sets), and which start that was (/proc/sys/kernel/random/boot_id)."""

    wall_ns: int
    boottime_ns: int
    boot: str


def now(boot: str) -> Now:
    """This moment, of the boot that it is in."""
    return Now(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), boot)
