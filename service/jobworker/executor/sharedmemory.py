"""Removes what outlives its makers: files in /dev/shm, and System V shared memory, semaphores and message queues. For
where nobody but jobs makes any. It knows no jobs.
"""

import os
from typing import List, Tuple

from . import libc, tree

_SHM = "/dev/shm"  # noqa: S108  not a file of ours


def clear() -> None:
    """Removes all that is this user's. What cannot be removed stays."""
    own = os.geteuid()
    try:
        with os.scandir(_SHM) as entries:
            names = [entry.path for entry in entries if entry.stat(follow_symlinks=False).st_uid == own]
    except OSError:
        names = []
    for path in names:
        try:
            os.unlink(path)
        except OSError:
            pass  # a folder, say; shm_open(3) makes none
    for kind, column in (("shm", b"shmid"), ("msg", b"msqid"), ("sem", b"semid")):
        for identifier, uid in _objects(kind, column):
            if uid == own:
                libc.remove_ipc(kind, identifier)


def _objects(kind: str, column: bytes) -> List[Tuple[int, int]]:
    """Identifier and owner of each: proc(5), /proc/sysvipc."""
    head, *lines = [line.split() for line in tree.read(f"/proc/sysvipc/{kind}").splitlines()] or [[]]
    if not head:
        return []
    place, owner = head.index(column), head.index(b"uid")
    return [(int(line[place]), int(line[owner])) for line in lines]
