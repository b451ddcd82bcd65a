"""What finished batches take, by a walk through the store that knows nothing of the service's own count."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

Figures = tuple[int, int, int]  # batches, bytes, files


def walked(data: Path) -> dict[str, Figures]:
    """By user. Files and folders of a batch, with its own, and the lengths of the files."""
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for batch in (data / "batches").glob("*/*/*/*"):
        mine = found[batch.relative_to(data / "batches").parts[0]]
        mine[0] += 1
        for place, _, names in os.walk(batch):
            mine[2] += 1 + len(names)
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    mine[1] += os.lstat(f"{place}/{name}").st_size
    return {user: (batches, size, files) for user, (batches, size, files) in found.items()}
