"""Clocks that jump: a library for LD_PRELOAD, and the file that tells the processes with it by how much. It works for
whatever has it in its environment at its start, and for what these start with it: the whole service, or an executor,
whose jobs get an environment without it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.harness.pki import make_pki
from tests.harness.preload import build
from tests.harness.service import Service


class ClockShift:
    """`env` is for the processes whose clocks are to jump."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where library and file are put; others must be able to read it where the process is another
        user's."""
        library = build("clockshift", folder)
        self._path = folder / "clockshift"
        self._day_seconds = self._steady_seconds = 0.0
        self._path.write_bytes(bytes(16))
        self._path.chmod(0o644)
        self.env = {"LD_PRELOAD": str(library), "CLOCKSHIFT_FILE": str(self._path)}

    def jump(self, seconds: float) -> None:
        """Moves the clock of the day (CLOCK_REALTIME), on or back; it adds up."""
        self._day_seconds += seconds
        self._write(0, self._day_seconds)

    def pass_time(self, seconds: float) -> None:
        """Moves the clocks that never jump (CLOCK_MONOTONIC, CLOCK_BOOTTIME), and that of the day with them, as if so
        much time had gone by. Whoever waits already is not woken by it."""
        self._steady_seconds += seconds
        self._write(8, self._steady_seconds)
        self.jump(seconds)

    def _write(self, offset: int, seconds: float) -> None:
        with self._path.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack("=q", round(seconds * 1e9)), offset)


@contextlib.contextmanager
def shifted_service(folder: Path, clock: ClockShift, **settings: str) -> Iterator[Service]:
    """A running service whose clocks jump, with certificates that were made long before."""
    made = Service(folder, variables=clock.env, **settings)
    made.passwords = make_pki(made.pki, now=datetime.now(UTC) - timedelta(days=7)).passwords
    try:
        yield made.start()
    finally:
        made.stop()
