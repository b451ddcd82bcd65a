"""The way to a server that listens at a path: the connection, and the two proofs of who comes through it. A job of the
same user may see that path as well, so the server tells the executor from its jobs by these:

- the key, a random number that every hello holds and that no job can read (prctl(2), PR_SET_DUMPABLE);
- the lock, a file of the server's that it passes with its first `attach`. It is held until this process dies, and while
  it is held, the server lets nobody in who brings another key.

It knows neither messages nor jobs.
"""

import os
import socket
import time
from typing import Callable, Optional

_WAIT_SECONDS = 0.2


def open_folder(path: str, *, say: Callable[[str], None]) -> int:
    """A descriptor of the folder of a socket, good for connecting wherever the folder is hidden later. Waits for it."""
    folder = os.path.dirname(os.path.abspath(path))
    told = False
    while True:
        try:
            return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if not told:
                say(f"waiting for {folder}: {error.strerror}")
                told = True
            time.sleep(_WAIT_SECONDS)


class ServerConnector:
    """Connects, in the thread that alone changes the working directory; sun_path (unix(7)) is taken from there."""

    def __init__(self, *, path: str, folder: int, hidden: bool, say: Callable[[str], None]) -> None:
        """`folder`: a descriptor of the folder that `path` lies in. `hidden`: jobs do not see it."""
        self.key = os.urandom(32).hex()
        self._name = os.path.basename(path)
        self._folder = folder
        self._hidden = hidden
        self._say = say
        self._told = ""
        self._lock = -1

    def connect(self) -> Optional[socket.socket]:
        """A connection; None: there is no server now."""
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._tell(error)
            return None
        try:
            os.fchdir(self._folder)
            if not self._hidden and os.access(".", os.W_OK, effective_ids=True):
                raise OSError("jobs may write into its folder, and could pose as the server")
            sock.connect(self._name)
        except OSError as error:
            sock.close()
            self._tell(error)
            return None
        finally:
            os.chdir("/")
        self._told = ""
        return sock

    def hold(self, lock: int) -> None:
        """Keeps the server's lock for as long as this process lives."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock

    def _tell(self, error: OSError) -> None:
        why = error.strerror or str(error)
        if why != self._told:
            self._told = why
            self._say(f"no server at {self._name} yet: {why}")
