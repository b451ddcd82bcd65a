"""Calls of the C library that fail on demand: a library for LD_PRELOAD, and the file that tells the processes with it
which ones, how, and how often. Jobs get an environment without it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tests.harness.preload import build

_CALLS = (
    "recvmsg", "sendmsg", "send", "socket", "pipe2", "epoll_ctl", "memfd_create", "posix_spawn", "fork", "mkdir",
    "pidfd_open", "opendir", "poll", "fallocate64",
)  # fmt: skip
_SIZE = 16
ALWAYS = -1


class FailCalls:
    """`env` is for the processes whose calls are to fail."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where library and file are put."""
        library = build("failcalls", folder)
        self._path = folder / "failcalls"
        self._path.write_bytes(bytes(_SIZE * len(_CALLS)))
        self._path.chmod(0o666)
        self.env = {"LD_PRELOAD": str(library), "FAILCALLS_FILE": str(self._path)}

    def fail(self, call: str, error: int, times: int = ALWAYS) -> None:
        """From now on, so many times."""
        self._write(call, struct.pack("=iii", error, times, 0))

    def mend(self, call: str) -> None:
        """Not any more."""
        self._write(call, struct.pack("=ii", 0, 0))

    def failed(self, call: str) -> int:
        """How often, since `fail`."""
        return self._read(call, 8)

    def most_at_once(self, call: str) -> int:
        """How many threads of a process were in it at the same time, at the most; of posix_spawn alone."""
        return self._read(call, 12)

    def _read(self, call: str, offset: int) -> int:
        with self._path.open("rb") as file:
            (number,) = struct.unpack_from("=i", file.read(), _SIZE * _CALLS.index(call) + offset)
        return int(number)

    def _write(self, call: str, data: bytes) -> None:
        with self._path.open("r+b") as file:
            os.pwrite(file.fileno(), data, _SIZE * _CALLS.index(call))
