"""What the memory control group of this process tells: its limit, what it holds, and whether the kernel killed in it
since the last look, for want of memory (it cannot say whom)."""

import os
from typing import List, NamedTuple, Optional, Tuple

from . import tree

_ROOT = "/sys/fs/cgroup"
# Version 1 has no word for "no limit", but a number of pages that no machine has (PAGE_COUNTER_MAX).
_NO_LIMIT_BYTES = 1 << 60


class MemoryKills:
    """A count of the kernel's: of this process's control group or, where that has none, of the whole machine."""

    def __init__(self) -> None:
        files = [f"{path}/{'memory.events' if is_second else 'memory.oom_control'}" for path, is_second in _folders()]
        # The kills of other groups, other containers' say, are none of ours.
        self._source = next((path for path in files if b"oom_kill " in tree.read(path)), "/proc/vmstat")
        self._count = _count(self._source)

    def happened(self) -> bool:
        """Since the last call."""
        before, self._count = self._count, _count(self._source)
        return self._count > before


class Group:
    """The control group's files; `find_group` finds it."""

    def __init__(self, folder: str, *, is_second: bool) -> None:
        self._limit = f"{folder}/{'memory.max' if is_second else 'memory.limit_in_bytes'}"
        self._held = f"{folder}/{'memory.current' if is_second else 'memory.usage_in_bytes'}"
        self._stat = f"{folder}/memory.stat"
        prefix = b"" if is_second else b"total_"
        self._cached = (prefix + b"inactive_file", prefix + b"active_file", b"slab_reclaimable")

    def limit(self) -> Optional[int]:
        """In bytes; None: it has none."""
        value = _number(tree.read(self._limit))
        return None if value is None or value >= _NO_LIMIT_BYTES else value

    def held(self) -> int:
        """Bytes, the cache of files among them."""
        return _number(tree.read(self._held)) or 0

    def cached(self) -> int:
        """Bytes that the kernel takes back before it kills."""
        return sum(_counts(tree.read(self._stat), self._cached))


def find_group() -> Optional[Group]:
    """This process's; None: there is none to be seen."""
    for folder, is_second in _folders():
        if os.path.exists(f"{folder}/{'memory.max' if is_second else 'memory.limit_in_bytes'}"):
            return Group(folder, is_second=is_second)
    return None


class _Folder(NamedTuple):
    path: str
    is_second: bool  # of cgroup version 2


def _folders() -> List[_Folder]:
    # cgroups(7): `0::/path` is version 2, `4:memory:/path` version 1. In a container the path may be the host's, while
    # its own group is mounted at the top.
    found = []
    for line in tree.read("/proc/self/cgroup").decode("utf-8", "replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_Folder(_ROOT + path.rstrip("/"), True), _Folder(_ROOT, True)]
        elif "memory" in controllers.split(","):
            found += [_Folder(f"{_ROOT}/memory{path.rstrip('/')}", False), _Folder(f"{_ROOT}/memory", False)]
    return found


def _count(path: str) -> int:
    return sum(_counts(tree.read(path), (b"oom_kill",)))


def _counts(data: bytes, names: Tuple[bytes, ...]) -> List[int]:
    return [int(value) for name, _, value in (line.partition(b" ") for line in data.splitlines()) if name in names]


def _number(data: bytes) -> Optional[int]:
    return int(data) if data.strip().isdigit() else None
