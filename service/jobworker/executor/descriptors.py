"""How many descriptors this process may still open. A message that comes when there is no room loses those it carries
(unix(7), MSG_CTRUNC), and a job needs some for as long as it runs, so who wants many asks here first.
"""

import errno
import os
import resource

_UNKNOWN = 1 << 30


class Descriptors:
    """Counting takes 0.1 ms and more, so it is done when what was left at the last count may be gone; what was closed
    since is only seen then."""

    def __init__(self) -> None:
        self._left = 0

    def left(self, wanted: int) -> int:
        """How many there are at least; exact where it is less than what is wanted."""
        if self._left < wanted:
            self._left = _count_left()
        return self._left

    def take(self, count: int) -> None:
        """So many were opened, or will be."""
        self._left -= count


def _count_left() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return _UNKNOWN
    try:
        return max(0, soft - len(os.listdir("/proc/self/fd")) + 1)  # with the one that lists them
    except OSError as error:
        return 0 if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM) else _UNKNOWN
