"""The TCP connections that this process has on a port, found among its descriptors.

gRPC accepts connections by itself and tells nobody: neither how many there are nor whose. Their sockets are ours all
the same. A socket is known by its inode, which no other has while it is open: descriptors are used again at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from jobworker.server.strangers import site_of

_SLICE = 500  # descriptors looked at; then the event loop has its turn
_MAPPED = "::ffff:"
# struct tcp_info of linux/tcp.h: tcpi_bytes_received, since Linux 4.1.
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128


@dataclass(slots=True, eq=False)
class Connection:
    """One connection. `peer` as gRPC writes it, `host` whoever is to have its share: an address, or a network."""

    inode: int
    descriptor: int  # at the last look
    peer: str
    host: str
    spoke: bool = False  # something came from the peer

    def look(self) -> None:
        """Finds out whether it spoke."""
        if not self.spoke:
            with self._socket() as sock, suppress(OSError):
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
                self.spoke = (
                    len(info) < _RECEIVED_AT + _RECEIVED.size or _RECEIVED.unpack_from(info, _RECEIVED_AT)[0] > 0
                )

    def shut(self) -> bool:
        """Ends it, whatever is under way on it: gRPC reads the end of it and closes it. False: it is gone already."""
        with self._socket() as sock, suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
            return True
        return False

    @contextmanager
    def _socket(self) -> Iterator[socket.socket]:
        """The socket, or another that is not connected, where this one is gone."""
        with _opened(self.descriptor) as sock:
            if sock is not None and os.fstat(sock.fileno()).st_ino == self.inode:
                yield sock
                return
        with socket.socket() as other:
            yield other


class PortSockets:
    """Those of one port; `connections` by inode, the oldest first, as of the last `look`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._others: set[int] = set()  # inodes of sockets that are none
        self.connections: dict[int, Connection] = {}

    async def look(self) -> int:
        """Brings `connections` up to date; returns how many have gone."""
        others: set[int] = set()
        found: set[int] = set()
        async for descriptor, inode in _own_sockets():
            known = self.connections.get(inode)
            if known is not None:
                known.descriptor = descriptor
                found.add(inode)
            elif inode in self._others or (new := self._connection(descriptor, inode)) is None:
                others.add(inode)
            else:
                self.connections[inode] = new
                found.add(inode)
        self._others = others
        gone = self.connections.keys() - found
        for inode in gone:
            del self.connections[inode]
        return len(gone)

    async def listening(self) -> list[int]:
        """Second descriptors of the sockets that listen on the port; the caller closes them."""
        # As numbers: socket.dup() would set them, and with them gRPC's own, to block.
        found = []
        async for descriptor, _ in _own_sockets():
            with _opened(descriptor) as sock, suppress(OSError):
                if (
                    sock is not None
                    and _port(sock.getsockname()) == self._port
                    and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                ):
                    found.append(os.dup(sock.fileno()))
        return found

    def _connection(self, descriptor: int, inode: int) -> Connection | None:
        with _opened(descriptor) as sock, suppress(OSError):
            if sock is None or _port(sock.getsockname()) != self._port or os.fstat(sock.fileno()).st_ino != inode:
                return None
            host, port = sock.getpeername()[:2]
            return Connection(inode=inode, descriptor=descriptor, peer=peer_name(host, port), host=site_of(host))
        return None


async def _own_sockets() -> AsyncIterator[tuple[int, int]]:
    for position, name in enumerate(os.listdir("/proc/self/fd")):
        if position % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        with suppress(OSError):  # closed meanwhile
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


@contextmanager
def _opened(descriptor: int) -> Iterator[socket.socket | None]:
    """A second descriptor of whatever the first one stands for now, so that gRPC can close its own at any time."""
    try:
        second = os.dup(descriptor)
    except OSError:
        yield None
        return
    # The family is said, or Python would ask for it; addresses are decoded as they are all the same.
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=second) as sock:
        yield sock


def _port(name: object) -> int | None:
    return name[1] if isinstance(name, tuple) and len(name) > 1 else None


def peer_name(host: str, port: int) -> str:
    """A peer as gRPC's `context.peer()` has it."""
    if host.startswith(_MAPPED) and "." in host:
        host = host[len(_MAPPED) :]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
