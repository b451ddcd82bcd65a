"""A real memory control group with a limit, of whichever version the machine has, and the kernel's kills in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.harness.wait import until

LIMIT_BYTES = 256 << 20
GREEDY = "exec python3 -c 'x = []\nwhile True: x.append(bytearray(4 << 20))'"
_ROOT = Path("/sys/fs/cgroup")
_FIRST = _ROOT / "memory"  # of cgroup version 1


@contextlib.contextmanager
def limited_group() -> Iterator[Path]:
    """Its folder. All in it must have ended at the end."""
    name = f"jobworker-test-{os.getpid()}"
    if _FIRST.is_dir():
        folder, limit = _FIRST / name, "memory.limit_in_bytes"
    else:
        folder, limit = _ROOT / name, "memory.max"
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
    folder.mkdir()
    (folder / limit).write_text(str(LIMIT_BYTES))
    yield folder
    until(lambda: not (folder / "cgroup.procs").read_text(), "the end of all in the group")
    folder.rmdir()


def enter(group: Path) -> list[str]:
    """What goes before a command that is to run in the group."""
    return ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def kills(group: Path) -> int:
    """How often the kernel killed."""
    file = group / "memory.events" if (group / "memory.events").exists() else group / "memory.oom_control"
    return sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill "))
