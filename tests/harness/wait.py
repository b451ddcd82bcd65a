"""Waiting on conditions: looked at again and again until they hold, with a deadline that only a failure reaches."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_SECONDS = 60.0


def until(condition: Callable[[], T], what: str = "the condition", seconds: float = DEADLINE_SECONDS) -> T:
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """A process that has not ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signals a process and, for SIGKILL, waits until it is gone."""
    os.kill(pid, number)
    if number == signal.SIGKILL:
        until(lambda: not alive(pid), f"the end of process {pid}")


def command_line(pid: int) -> list[str]:
    """Of a process; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    """Of a process, those alive."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        for task in tasks:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(p) for p in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [p for p in found if alive(p)]


def processes_of(marker: str) -> list[int]:
    """Live processes whose command line has the marker as one whole argument, or at its end."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [p for p in pids if any(a.endswith(marker) for a in command_line(p)) and alive(p)]
