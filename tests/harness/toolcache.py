"""Where programs that tests fetch or build are kept, outside of the checkout: made once, and only read from then on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jobworker-tools"


def cached(name: str, *parts: bytes) -> Path:
    """Where that lies which is made of these parts."""
    return CACHE / f"{name}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder beside what is kept, on the same file system: what is made in it is published by rename."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=CACHE) as folder:
        yield Path(folder)
