"""A TCP proxy that cuts connections: a network that fails, in front of the real service."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Self

# Whether to cut, asked before each piece is passed on: bytes passed on this connection towards the service, and back.
Cut = Callable[[int, int], bool]


class Proxy:
    """`async with Proxy(port, cut) as proxy`: connect to `proxy.address` instead."""

    def __init__(self, port: int, cut: Cut) -> None:
        self._target = port
        self._cut = cut
        self.cuts = 0
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"localhost:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        passed = [0, 0]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: int) -> None:
            while piece := await source.read(16 << 10):
                passed[way] += len(piece)
                if self._cut(*passed):
                    self.cuts += 1
                    return
                sink.write(piece)
                await sink.drain()

        ways = [asyncio.ensure_future(pump(reader, to_writer, 0)), asyncio.ensure_future(pump(to_reader, writer, 1))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for sink in (writer, to_writer):
                _reset(sink)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset, as a machine that lost its memory does; what is on the way goes (socket(7), SO_LINGER)."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:  # closed from the other side
            pass
    writer.transport.abort()
