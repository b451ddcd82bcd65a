"""A folder that jobs of every service of the tests may write, and the tests read. Their own temporary folders are none:
a service's folders lie there, and no job may write above these."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(tempfile.mkdtemp(prefix="jobworker-scratch-"))
ROOT.chmod(0o777)  # root's jobs are another user's
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)

# Where the Python of these tests lies, and the tests themselves: jobs are to find both.
PROGRAMS = sorted({str(Path(__file__).parents[2]), sys.prefix, sys.base_prefix})


def folder() -> Path:
    """A fresh one."""
    made = Path(tempfile.mkdtemp(dir=ROOT))
    made.chmod(0o777)
    return made
