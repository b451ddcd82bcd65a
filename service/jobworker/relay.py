"""Standard error of the whole service, by way of a pipe: whoever writes into it never waits, and never fails for what
lies behind. That may be a pipe whose reader is gone or takes nothing (EPIPE, or a write that blocks), a terminal that
was closed (EIO) or stopped (Ctrl-S), a full disk (ENOSPC).

A thread carries the lines on, and passes over what cannot be written. While it waits the pipe fills, and then its
writers, who have it non-blocking, lose lines (EAGAIN) and not their time. Knows no processes.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading

_STDERR = 2
_PIPE_BYTES = 1 << 16  # pipe(7): what one holds, unless it was made larger
_CLOSE_SECONDS = 1.0


def open_standard() -> None:
    """Has descriptors 0, 1 and 2 be something: one that was closed would be given to the next file or socket that is
    opened, and messages would go there."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stderr is None:  # what Python makes of a closed one
        sys.stderr = io.TextIOWrapper(io.FileIO(_STDERR, "w", closefd=False), errors="backslashreplace")


def print_error(text: str) -> None:
    """A line on standard error, of a process that is about to end for it: whether anybody reads it changes nothing."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, _line(text))


class Relay:
    """`fd` is what is written into, and others are given as their standard error. All that it needs is had at once."""

    def __init__(self) -> None:
        """
        Raises:
            OSError: no pipe, or no thread, can be had.
        """
        self._reading, self.fd = os.pipe2(os.O_CLOEXEC)
        # Of the description that all writers share; the other end waits.
        os.set_blocking(self.fd, False)
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as e:
            raise OSError(str(e)) from e

    def say(self, text: str) -> None:
        """A line, if there is room."""
        with contextlib.suppress(OSError):
            os.write(self.fd, _line(text))

    def close(self) -> None:
        """Carries on what there is, for a second at the most, once the other writers are gone."""
        os.close(self.fd)
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                piece = os.read(self._reading, _PIPE_BYTES)
            except OSError:  # ENOMEM
                continue
            if not piece:
                return
            with contextlib.suppress(OSError):
                _write_all(piece)


def _write_all(piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        try:
            view = view[os.write(_STDERR, view) :]
        except BlockingIOError:  # whoever it is shared with has made it non-blocking
            poll = select.poll()
            poll.register(_STDERR, select.POLLOUT)
            poll.poll()


def _line(text: str) -> bytes:
    return f"jobworker: {text}\n".encode("utf-8", "backslashreplace")
