"""What whoever may end this server may tell it first, over a socket in its run folder: `jobworker drain`.

Both ends, and the lines they exchange (JSON): `{"drain": SECONDS}`, answered by `{"draining": true}` at once and, when
no job runs any more, `{"interrupted": N}`. Of the service it knows what it is handed, and nothing of the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from jobworker.server.telemetry.log import Log

NAME = "control.sock"
# How long a server that lives may take to say that it heard. One that hangs must not be waited for.
_HEAR_SECONDS = 10.0
# Beyond the seconds that jobs may take: theirs to end once interrupted, and some.
_MORE_SECONDS = 45.0
_LINE_BYTES = 4096
_UCRED = struct.Struct("=iII")  # unix(7): pid, uid, gid


class ControlError(Exception):
    """The server could not be told; the message says why."""


class Control:
    """The server's end. `open`, then `close`."""

    def __init__(self, *, folder: Path, drain: Callable[[float], Awaitable[int]], log: Log) -> None:
        self._folder = folder
        self._drain = drain
        self._log = log
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listens. Where that fails the service runs all the same, and cannot be told to drain this way."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._server = await asyncio.start_unix_server(self._talk, sock=_listen(self._folder), limit=_LINE_BYTES)
        except OSError as e:
            self._log.error("cannot listen for `jobworker drain`", path=self._folder / NAME, problem=e.strerror or e)

    async def close(self) -> None:
        """Ends it, and whatever was being told."""
        if self._server is None:
            return
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        with contextlib.suppress(OSError):
            os.unlink(self._folder / NAME)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (it is one)
        self._talks.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError) as e:
            self._log.warning("a talk over the control socket broke off", problem=str(e))
        finally:
            self._talks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(peer)[1] not in (0, os.geteuid()):
            return
        async with asyncio.timeout(_HEAR_SECONDS):
            wish = json.loads(await reader.readuntil())
        seconds = wish.get("drain") if isinstance(wish, dict) else None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            writer.write(b'{"error": "what is wanted is not understood"}\n')
            return
        writer.write(b'{"draining": true}\n')
        await writer.drain()
        # Whoever asked may be gone before it is done; what was begun goes on.
        interrupted = await self._drain(float(seconds))
        writer.write(json.dumps({"interrupted": interrupted}).encode() + b"\n")
        await writer.drain()


def ask_drain(folder: Path, *, seconds: float) -> int:
    """Has the server of this run folder drain; returns how many jobs were interrupted.

    Raises:
        ControlError: there is no server, it does not answer, or it takes too long.
    """
    path = folder / NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_HEAR_SECONDS)
        try:
            with _short(folder) as short:
                sock.connect(short)
            sock.sendall(json.dumps({"drain": seconds}).encode() + b"\n")
            answers = sock.makefile("rb")
            _read(answers.readline(_LINE_BYTES), "draining")
            sock.settimeout(seconds + _MORE_SECONDS)
            return int(_read(answers.readline(_LINE_BYTES), "interrupted"))
        except TimeoutError:
            raise ControlError(f"{path}: the server does not answer") from None
        except OSError as e:
            raise ControlError(f"{path}: {e.strerror or e}") from e
        except ValueError as e:
            raise ControlError(f"{path}: {e}") from None


def _read(line: bytes, name: str) -> int:
    if not line:
        raise ValueError("the server ended before it was drained")
    answer = json.loads(line)
    if name not in answer:
        raise ValueError(str(answer.get("error", answer)))
    return int(answer[name])


def _listen(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / NAME)  # of a server before; two at a time are kept apart by the data folder
        with _short(folder) as short:
            sock.bind(short)
        os.chmod(folder / NAME, 0o600)  # before it listens nobody can connect
        sock.listen(8)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The socket's path through a descriptor of its folder: sun_path holds 107 bytes (unix(7))."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
