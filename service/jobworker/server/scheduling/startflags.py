"""Memory that is shared with one executor, a byte for each order that it was sent; the executor sets it just before it
starts the order's process. When the executor died it tells which of them never started.

It is sealed against writing before it is read (F_SEAL_WRITE, fcntl(2)): what is not set by then never will be, however
long the dead one's last threads take to end.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os

_SIZE = 1 << 20  # jobs with one executor; pages that nobody touched take no memory


class StartFlags:
    """Of the executor of an epoch."""

    def __init__(self, epoch: str) -> None:
        """
        Raises:
            OSError: there is no memory or no descriptor for it.
        """
        self.epoch = epoch
        self.fd = os.memfd_create("start flags", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, _SIZE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._memory = mmap.mmap(self.fd, _SIZE)
        except OSError:
            os.close(self.fd)
            raise
        self._flags: dict[str, int] = {}  # of each order that was sent and has not ended
        self._free: list[int] = []
        self._next = 0

    def give(self, job_id: str) -> int | None:
        """The number of an order's flag, which is not set; None: there are no more."""
        if self._free:
            flag = self._free.pop()
            self._memory[flag] = 0
        elif self._next < _SIZE:
            flag = self._next
            self._next += 1
        else:
            return None
        self._flags[job_id] = flag
        return flag

    def take_back(self, job_id: str) -> None:
        """That of an order that is over, if it had one."""
        flag = self._flags.pop(job_id, None)
        if flag is not None:
            self._free.append(flag)

    def end(self) -> set[str]:
        """The executor is gone: which of its orders were never started, and never will be. The last call."""
        self._memory.close()  # it could not be sealed else
        try:
            # Where it cannot be sealed or read nothing is known.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
                content = os.pread(self.fd, self._next, 0)
                return {job_id for job_id, flag in self._flags.items() if content[flag : flag + 1] == b"\0"}
            return set()
        finally:
            os.close(self.fd)
