"""A file that is shared with the server, a byte for each order: set just before the order's process is started. When
this executor is gone a server knows by it which orders were never started, and may give them to the next one.

It looks when the lock that the descriptor holds is free (flock(2)): then the last thread here is gone.
"""

import errno
import os
from typing import Optional


class StartFlags:
    """Of the server that is attached. Any thread may set."""

    def __init__(self) -> None:
        self.held = False  # the present session's
        self._fd = -1  # or, while it lacks that, the one of the session before, for the orders that came in it

    def begin_session(self) -> None:
        """Another session: its file is to come."""
        self.held = False

    def hold(self, fd: int) -> None:
        """Takes the descriptor of the file over."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self.held = True

    def set(self, flag: Optional[int]) -> None:
        """Of an order that is about to be started; None: it has none.

        Raises:
            OSError: it must not be started now. It says that memory is short.
        """
        if flag is None:
            return
        try:
            os.pwrite(self._fd, b"\1", flag)
        except OSError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
