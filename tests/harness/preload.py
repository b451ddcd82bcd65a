"""Libraries for LD_PRELOAD, from their C sources beside this file."""

from __future__ import annotations

import subprocess
from pathlib import Path


def build(name: str, folder: Path) -> Path:
    """Compiles `name`.c into a library in a folder; others must be able to read it where the process is another
    user's."""
    source, library = Path(__file__).with_name(f"{name}.c"), folder / f"{name}.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library
