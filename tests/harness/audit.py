"""An audit log, as a reader finds it, and the command that checks it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobpki.auditfile import rotated


def files(folder: Path) -> list[Path]:
    """Those of a folder's log, oldest first."""
    path = folder / "audit.jsonl"
    return [Path(old) for _, old in reversed(rotated(str(path)))] + ([path] if path.exists() else [])


def lines(folder: Path, **wanted: object) -> list[dict[str, Any]]:
    """Those that say these things."""
    found = [json.loads(line) for file in files(folder) for line in file.read_bytes().splitlines()]
    return [line for line in found if all(line.get(key) == value for key, value in wanted.items())]


def verify(*places: Path) -> subprocess.CompletedProcess[str]:
    """`jobworker audit verify`."""
    command = [sys.executable, "-m", "jobworker.server.cli", "audit", "verify", *map(str, places)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
