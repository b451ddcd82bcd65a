"""Fills disks."""

from __future__ import annotations

import contextlib
from pathlib import Path


def fill(path: Path) -> None:
    """Writes a file until not a byte goes in."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
