"""What the service itself can be short of, as errno says it. It decides nothing."""

import errno
from typing import Optional

PROCESSES = "processes"
MEMORY = "memory"
DESCRIPTORS = "descriptors"
DISK = "disk"

_KINDS = {
    errno.EAGAIN: PROCESSES,  # fork(2): RLIMIT_NPROC, pids.max, threads-max
    errno.ENOMEM: MEMORY,
    errno.ENOBUFS: MEMORY,
    errno.EMFILE: DESCRIPTORS,
    errno.ENFILE: DESCRIPTORS,
    errno.ENOSPC: DISK,  # of epoll_ctl(2): fs.epoll.max_user_watches
    errno.EDQUOT: DISK,
}


def kind(error: OSError) -> Optional[str]:
    """Of what there is none left now; None: the error says something else."""
    return _KINDS.get(error.errno or 0)
