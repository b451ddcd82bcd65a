"""What /proc tells of processes: whose child one is, its session, its mark, the pipes it holds. It decides nothing."""

import os
from typing import Container, Dict, Iterator, List, NamedTuple, Optional


class Stat(NamedTuple):
    """A line of /proc/PID/stat (proc(5)). `start` with the pid names a process for ever: pids are reused."""

    pid: int
    state: str
    ppid: int
    pgrp: int
    session: int
    start: int


def stat(pid: int) -> Optional[Stat]:
    """None: there is no such process (any more)."""
    data = read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name may hold spaces and brackets; it ends with the last bracket.
    fields = data[data.rindex(b")") + 2 :].split()
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def descendants(pid: int) -> List[int]:
    """Every process below one, parents first; not itself."""
    found: List[int] = []
    below = _children_by_ppid() if not _has_children_files() else None
    wanted = [pid]
    while wanted:
        parent = wanted.pop()
        children = _children(parent) if below is None else below.get(parent, [])
        found += children
        wanted += children
    return found


def mark(pid: int) -> str:
    """ "<correlation id>/<index>" of the job whose mark is in the environment it was executed with, or ""."""
    data = read(f"/proc/{pid}/environ")
    if b"JOBWORKER_" not in data:
        return ""
    variables = dict(item.partition(b"=")[::2] for item in data.split(b"\0"))
    name = variables.get(b"JOBWORKER_CORRELATION_ID", b"") + b"/" + variables.get(b"JOBWORKER_JOB_INDEX", b"")
    return name.decode("utf-8", "replace")


def held_pipe(pid: int, inodes: Container[int]) -> Optional[int]:
    """The inode of the first of these pipes that it has open."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None  # gone, or not ours to look into
    for name in names:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if link.startswith("pipe:["):
            inode = int(link[6:-1])
            if inode in inodes:
                return inode
    return None


class Adopted:
    """The orphans that became children of this process: those that its leader thread has, which starts none itself.

    The kernel gives orphans to the leader of the thread group, while a child that a thread spawned is that thread's
    (kernel/exit.c, find_new_reaper). So the list stays empty however many jobs run, as long as another thread
    spawns. It is read whole: children leave it only when we reap them, and new ones come at its end.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        self._pid = pid
        self._fd = -1
        if _has_children_files():
            # Opened once, before the process becomes undumpable and its /proc files another's.
            self._fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)

    def pids(self, spawned: Container[int]) -> List[int]:
        """`spawned` are the children that are none."""
        if self._fd < 0:
            return [pid for pid in _children_by_ppid().get(self._pid, []) if pid not in spawned]
        data = os.pread(self._fd, 4096, 0)
        if not data:
            return []
        while True:
            more = os.pread(self._fd, 4096, len(data))
            if not more:
                return [pid for pid in map(int, data.split()) if pid not in spawned]
            data += more


def _children(pid: int) -> List[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: List[int] = []
    for thread in threads:
        found += map(int, read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def _children_by_ppid() -> Dict[int, List[int]]:
    below: Dict[int, List[int]] = {}
    for pid in all_pids():
        line = stat(pid)
        if line is not None:
            below.setdefault(line.ppid, []).append(pid)
    return below


def all_pids() -> Iterator[int]:
    """Of every process in sight; none where that cannot be told now."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            yield int(name)


def _has_children_files() -> bool:
    # CONFIG_PROC_CHILDREN
    return os.path.exists("/proc/thread-self/children")


def read(path: str) -> bytes:
    """A file of /proc or the like, whole; empty if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except OSError:
        return b""
    return data or b""
