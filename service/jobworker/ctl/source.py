"""Lines from a file or a pipe, that can be read again from the start: a submit may have to be sent twice.

Nothing here knows what the lines mean.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import threading
from typing import TYPE_CHECKING, BinaryIO

from jobworker.ctl.exits import CtlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_READ_BYTES = 256 << 10
_PIECES_AHEAD = 8
_LINE_BYTES = 64 << 20  # no service takes a message of that size


class Lines:
    """`async for number, line in lines`: from line 1, without line ends; each time from the start. A file is read
    again; of a pipe what was read is kept in an unnamed temporary file.
    """

    def __init__(self, path: str) -> None:
        """`path` may be `-`, standard input.

        Raises:
            CtlError: it cannot be opened.
        """
        self.name = "standard input" if path == "-" else path
        try:
            self._file: BinaryIO = open(0 if path == "-" else path, "rb", buffering=0, closefd=path != "-")  # noqa: SIM115
        except OSError as error:
            raise CtlError(f"{self.name}: {error.strerror}") from error
        regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._start = self._file.tell() if regular else None
        self._kept: BinaryIO | None = None if self._start is not None else tempfile.TemporaryFile()  # noqa: SIM115
        self._pipe: AsyncIterator[bytes] | None = None

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        number, rest = 0, b""
        async for piece in self._pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                number += 1
                yield number, line
            if len(rest) > _LINE_BYTES:
                raise CtlError(f"{self.name}:{number + 1}: is longer than {_LINE_BYTES >> 20} MiB")
        if rest:
            yield number + 1, rest

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._kept is None:
            self._file.seek(self._start or 0)
            while piece := self._read():
                yield piece
            return
        self._kept.seek(0)
        while piece := self._kept.read(_READ_BYTES):
            yield piece
        if self._pipe is None:
            self._pipe = _in_background(self._file)
        async for piece in self._pipe:
            self._kept.write(piece)
            yield piece

    def _read(self) -> bytes:
        try:
            return self._file.read(_READ_BYTES) or b""
        except OSError as error:  # a folder, for one
            raise CtlError(f"{self.name}: {error.strerror}") from error


async def _in_background(file: BinaryIO) -> AsyncIterator[bytes]:
    """Pieces of a pipe or terminal, read in a thread: a read may last for ever, and Ctrl-C is to work meanwhile.

    A daemon thread, which does not keep the process alive; it reads without Python's buffers, whose locks would.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue(_PIECES_AHEAD)

    def read() -> None:
        piece: bytes | OSError = b"-"
        while piece and not isinstance(piece, OSError):
            try:
                piece = os.read(file.fileno(), _READ_BYTES)
            except OSError as error:
                piece = error
            try:
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()
            except RuntimeError:  # the loop is over, and with it whoever wanted this
                return

    threading.Thread(target=read, name="jobctl-input", daemon=True).start()
    while piece := await pieces.get():
        if isinstance(piece, OSError):
            raise CtlError(f"standard input: {piece.strerror}") from piece
        yield piece
