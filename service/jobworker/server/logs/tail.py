"""Where the last lines of a log begin. Reads the file from its end; does not know whose it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobworker.server.logs.logfile import LogFile

_BLOCK_BYTES = 1 << 16


async def start_of_last_lines(file: LogFile, size: int, lines: int) -> int:
    """The offset at which the last `lines` lines of the first `size` bytes begin. What follows the last newline is a
    line too; 0 when there are fewer, as far as its bytes are there."""
    end = size
    missing = lines
    hole = file.hole(0, 1)  # a log that keeps its end alone
    first = 0 if hole is None else hole[1]
    while end > first:
        start = max(first, end - _BLOCK_BYTES)
        block = await file.read_cold(start, end - start)
        stop = len(block)
        if end == size and block.endswith(b"\n"):
            stop -= 1  # it ends the last line, and begins none
        found = block.count(b"\n", 0, stop)
        if found < missing:
            missing -= found
            end = start
            await asyncio.sleep(0)
            continue
        for _ in range(missing):
            stop = block.rindex(b"\n", 0, stop)
        return start + stop + 1
    return 0
