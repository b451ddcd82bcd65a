"""What the kernel goes by when memory runs out."""

import os


class OomScoreAdj:
    """/proc/self/oom_score_adj: in want of memory the kernel is to kill a job, not the executor.

    The value is inherited by a child as it is at the fork (proc(5)), so it is raised around spawns. Raising needs no
    capability, nor does going back to where one was.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._own = self._job = b""
        try:
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            own = int(os.pread(self._fd, 16, 0))
            self._own = b"%d" % own
            self._job = b"%d" % min(1000, own + 300)
            os.pwrite(self._fd, self._job, 0)
            os.pwrite(self._fd, self._own, 0)
        except OSError:
            self._drop()  # /proc is read-only, or may not be written: jobs are then as bad as the executor

    def raise_(self) -> None:
        """For the children to come."""
        self._write(self._job)

    def lower(self) -> None:
        """Back to the executor's own."""
        self._write(self._own)

    def _write(self, value: bytes) -> None:
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, value, 0)
            except OSError:
                pass  # for want of memory, say: better a job that is spared than an executor that ends

    def _drop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
