"""What processes use, from proc(5). Children are counted nowhere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tests.harness.service import Service
from tests.harness.wait import children, command_line

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Of all its threads so far, in user and kernel (stat: utime and stime), in steps of a hundredth."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_kib(pid: int) -> int:
    """VmRSS."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def server_pid(service: Service) -> int:
    """The server."""
    return service.child("server")


def executor_pid(service: Service) -> int:
    """The parent of the jobs: below its outer process, where it has one."""
    outer = service.child("executor")
    inner = [p for p in children(outer) if any(a == "--fd" for a in command_line(p))]
    return inner[0] if inner else outer


@dataclass(frozen=True)
class Spent:
    """CPU seconds so far, and the time."""

    server: float
    executor: float
    at: float

    @classmethod
    def now(cls, service: Service) -> Spent:
        """Until now."""
        return cls(cpu_seconds(server_pid(service)), cpu_seconds(executor_pid(service)), time.perf_counter())

    def since(self, before: Spent) -> Spent:
        """What has been used between the two."""
        return Spent(self.server - before.server, self.executor - before.executor, self.at - before.at)
