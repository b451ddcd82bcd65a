"""A terminal whose foreground is the service: what is typed there, and what is shown."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import termios
import threading
from typing import Any

# As a shell starts a job: in the foreground, in a process group of its own, and waiting for its end. Without a parent
# in its session, nothing that Ctrl-Z is sent to would stop (signal(7): an orphaned process group).
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Terminal:
    """`popen` is what the process that is to have it is started with."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        self._shown = bytearray()

        def take() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.popen: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": take}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, key: str) -> None:
        """Ctrl with a letter, or with a backslash."""
        os.write(self._ours, bytes([ord(key.upper()) & 0x1F]))

    def shown(self) -> str:
        """All that it has shown."""
        return bytes(self._shown).decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        """Hangs up."""
        with contextlib.suppress(OSError):
            os.close(self._theirs)
        with contextlib.suppress(OSError):
            os.close(self._ours)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(self._ours, 4096):
                self._shown += piece
