"""Listens for the executor at a path, and tells it from its jobs, who are of the same user and may see the path too.

Who comes is let in for the key in its hello: that of the executor which was let in last. Another key is let in only
when that executor is dead, which its lock tells: a file that the executor holds locked until it dies (flock(2)),
whether this server, or the one before, lives or not. In a container all jobs are killed with the executor, its PID 1,
but some moments after its files were closed; so a new one has to wait until the lock has been free for a while.

Knows of the protocol the hello alone; with the connection goes on who is given it (local.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jobworker.executor import protocol
from jobworker.server.store.replace import replace
from jobworker.server.telemetry.log import Log

LOCK_SUFFIX, KEY_SUFFIX = ".lock", ".key"  # beside the socket, of the server alone
# Far more than the kernel needs to kill what was in a container (zap_pid_ns_processes): milliseconds.
SETTLE_SECONDS = 1.0
_HELLO_SECONDS = 5.0
_STOPPED_TOGETHER_SECONDS = 1.0  # within it the executor was told to stop as well
_LAST_ENDS_SECONDS = 12.0  # it gives its jobs 5 s, and waits as long for the last acknowledgement
_STRANGERS = 8  # that have not said hello yet; the oldest makes room
_BACKLOG = 64
_SAY_AGAIN_SECONDS = 30.0
_UCRED = struct.Struct("=iII")  # unix(7): pid, uid, gid


class Worker(Protocol):
    """Who takes the connection."""

    @property
    def connected(self) -> bool: ...

    stopping: asyncio.Event  # the executor that is connected ends its jobs, and then itself
    gone: asyncio.Event  # none is connected

    def connect(self, sock: socket.socket, *, lock: int | None = None) -> None: ...


class PathTakenError(Exception):
    """The path cannot be listened at; the message names it."""


class Admission:
    """`open` begins to listen, `close` ends it. On the event loop alone."""

    def __init__(
        self,
        *,
        path: Path,
        uid: int | None,
        worker: Worker,
        busy: Callable[[], bool],
        log: Log,
        clock: Callable[[], float],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """`uid`: the executor's; None: our own. `busy`: jobs run. `clock`: monotonic seconds."""
        self._path = str(path)
        self._own = uid is None or uid == os.geteuid()
        self._uid = os.geteuid() if uid is None else uid
        self._worker = worker
        self._busy = busy
        self._log = log
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._socket: socket.socket | None = None
        self._strangers: dict[int, tuple[protocol.Connection, socket.socket, asyncio.TimerHandle]] = {}
        self._key = ""  # what the one let in last is known by
        self._free_since: float | None = None
        self._said: dict[str, float] = {}

    def open(self) -> None:
        """Listens. A socket that a server left behind is taken away, nothing else is.

        Raises:
            PathTakenError: there is something else, or another server, or it cannot be listened there.
        """
        try:
            self._open()
        except OSError as e:
            raise PathTakenError(f"{self._path}: cannot be listened at: {e.strerror or e}") from e

    def _open(self) -> None:
        self._make_folder()
        self._remove_stale()
        self._key = self._read_key()
        if not self._key:
            self._free_since = self._clock() - self._settle_seconds  # no executor was ever let in here
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.bind(self._path)
            # Before it listens nobody can connect. To connect takes the right to write (unix(7)); another user's
            # executor is then known by its uid.
            os.chmod(self._path, 0o600 if self._own else 0o666)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Listens no more. The connection that was let in stays."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        for fd in list(self._strangers):
            self._dismiss(fd)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    async def leave(self) -> None:
        """Listens no more, and lets an executor that is stopped together with us, as `docker compose down` does, tell
        the ends of its jobs first."""
        self.close()
        with contextlib.suppress(TimeoutError):
            if self._worker.connected and self._busy():
                await asyncio.wait_for(self._worker.stopping.wait(), _STOPPED_TOGETHER_SECONDS)
            if self._worker.connected and self._worker.stopping.is_set():
                await asyncio.wait_for(self._worker.gone.wait(), _LAST_ENDS_SECONDS)

    def _make_folder(self) -> None:
        """Where there is none: for us to write, and for the executor, as a rule another user, to pass."""
        missing = [above for above in Path(self._path).absolute().parents if not above.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)  # mkdir(2) takes the umask off

    def _remove_stale(self) -> None:
        try:
            mode = os.lstat(self._path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise PathTakenError(f"{self._path}: is there and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
            number = probe.connect_ex(self._path)
        if number not in (errno.ECONNREFUSED, errno.ENOENT):
            why = "another server listens there" if number in (0, errno.EAGAIN) else os.strerror(number)
            raise PathTakenError(f"{self._path}: {why}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    # -- whoever comes

    def _accept(self) -> None:
        assert self._socket is not None  # noqa: S101  (its reader is removed with it)
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # it is gone again, or we are out of descriptors and asked again at once
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid != self._uid:
            self._refuse(sock, f"a process of user {uid} wanted to be the executor, which is user {self._uid}")
            return
        if len(self._strangers) >= _STRANGERS:
            self._dismiss(next(iter(self._strangers)))
        loop = asyncio.get_running_loop()
        fd = sock.fileno()
        self._strangers[fd] = (
            protocol.Connection(sock), sock, loop.call_later(_HELLO_SECONDS, self._dismiss, fd)
        )  # fmt: skip
        loop.add_reader(fd, self._hear, fd)
        self._hear(fd)  # as a rule its hello is there already

    def _hear(self, fd: int) -> None:
        connection, sock, _ = self._strangers[fd]
        try:
            received = connection.receive()
        except (protocol.ProtocolError, EOFError, OSError):
            self._dismiss(fd)
            return
        if received is None:
            return
        message, fds = received
        protocol.close_all(fds)
        self._forget(fd)
        key = message.get("key")
        if message.get("m") == "hello" and isinstance(key, str) and key:
            self._judge(sock, hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest())
        else:
            self._refuse(sock, "a process that is not an executor connected to its socket")

    def _judge(self, sock: socket.socket, key: str) -> None:
        known = hmac.compare_digest(key, self._key)
        if self._worker.connected and not known:
            self._refuse(sock, "another executor came while one is attached: refused")
            return
        try:
            lock = self._take_lock()
        except OSError as e:
            self._refuse(sock, f"{self._path}{LOCK_SUFFIX}: {e.strerror}")
            return
        if lock is None and not known:
            self._refuse(sock, "another executor came while the one before is alive: refused")
            return
        if lock is not None and not known:
            if not self._settled():
                os.close(lock)
                sock.close()
                return
            try:
                replace(f"{self._path}{KEY_SUFFIX}", key.encode())
            except OSError as e:
                os.close(lock)
                self._refuse(sock, f"{self._path}{KEY_SUFFIX}: {e.strerror}")
                return
            self._key = key
        self._free_since = None
        self._worker.connect(sock, lock=lock)

    def _settled(self) -> bool:
        now = self._clock()
        if self._free_since is None:
            self._free_since = now
        return now - self._free_since >= self._settle_seconds

    def _take_lock(self) -> int | None:
        """The lock, which is ours then; None: an executor that lives has it."""
        lock = os.open(f"{self._path}{LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            self._free_since = None
            return None
        except OSError:
            os.close(lock)
            raise
        return lock

    def _read_key(self) -> str:
        try:
            with open(f"{self._path}{KEY_SUFFIX}", encoding="ascii", errors="replace") as file:
                return file.read(64)
        except FileNotFoundError:
            return ""

    def _refuse(self, sock: socket.socket, why: str) -> None:
        sock.close()
        now = self._clock()
        if now - self._said.get(why, -_SAY_AGAIN_SECONDS) >= _SAY_AGAIN_SECONDS:
            self._said[why] = now
            self._log.warning("executor refused", problem=why)

    def _dismiss(self, fd: int) -> None:
        self._forget(fd).close()

    def _forget(self, fd: int) -> socket.socket:
        _, sock, timer = self._strangers.pop(fd)
        timer.cancel()
        asyncio.get_running_loop().remove_reader(fd)
        return sock
