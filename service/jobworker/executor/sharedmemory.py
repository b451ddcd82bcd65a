"""Removes what outlives its makers: files in /dev/shm, and System V shared memory, semaphores and message queues. For
where nobody but jobs makes any. It knows no jobs.
"""

import os
from typing import List, Optional, Tuple

from . import libc, tree
from .identity import Identity

_SHM = "/dev/shm"  # noqa: S108  not a file of ours


def clear(identities: Identity) -> None:
    """Removes all that is this user's, and the jobs'. What cannot be removed stays."""
    own, uids = os.geteuid(), identities.uids

    def owner(uid: int) -> Optional[int]:
        """Whom to be for it."""
        return None if uid == own else uid

    def is_ours(uid: int) -> bool:
        return uid == own or (uids is not None and uid in uids)

    found: List[Tuple[str, int]] = []
    try:
        with os.scandir(_SHM) as entries:
            found = [(entry.path, entry.stat(follow_symlinks=False).st_uid) for entry in entries]
    except OSError:
        pass
    for path, uid in found:
        if is_ours(uid):
            try:
                with identities.assumed(owner(uid)):
                    os.unlink(path)
            except OSError:
                pass  # a folder, say; shm_open(3) makes none
    for kind, column in (("shm", b"shmid"), ("msg", b"msqid"), ("sem", b"semid")):
        for identifier, uid in _objects(kind, column):
            if is_ours(uid):
                with identities.assumed(owner(uid)):
                    libc.remove_ipc(kind, identifier)


def _objects(kind: str, column: bytes) -> List[Tuple[int, int]]:
    """Identifier and owner of each: proc(5), /proc/sysvipc."""
    head, *lines = [line.split() for line in tree.read(f"/proc/sysvipc/{kind}").splitlines()] or [[]]
    if not head:
        return []
    place, owner = head.index(column), head.index(b"uid")
    return [(int(line[place]), int(line[owner])) for line in lines]
