"""Connections to the gRPC port that ended and over which no call had come, although their clients had said something.

gRPC tells nobody of a handshake that fails, neither whose nor why. The kernel tells of each TCP socket that is gone
(sock_diag(7), SKNLGRP_INET_TCP_DESTROY), with its peer and what came from it. So these can be counted: failed
handshakes, and whoever made one and left. Where the kernel or a filter of address families does not allow it, nothing
is counted, and the log says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING

from jobworker.server.handshakes import Refusals
from jobworker.server.rpc.sockets import peer_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.telemetry.log import Log

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_GROUPS = 1 << 0 | 1 << 2  # SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY, linux/sock_diag.h
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER, asm-generic/socket.h
# struct nlmsghdr, and of struct inet_diag_msg (linux/inet_diag.h) the family, and the ports and addresses of both ends.
_MESSAGE = struct.Struct("=16x B3x 2s2s 16s16s")
_PORT_AT = 20
_ATTRIBUTES_AT = 16 + 72
_INFO = 2  # INET_DIAG_INFO: a struct tcp_info
_RECEIVED_AT = 128  # in it, tcpi_bytes_received
_MAPPED = bytes(10) + b"\xff\xff"  # an address of IPv4 in one of IPv6
_MESSAGE_BYTES = 4096
_AT_ONCE = 64
# A call may be on its way to its handler while its connection is gone already.
_JUDGED_SECONDS = 1.0
_PEERS = 10_000


class Departures:
    """`open`, then `close`; `called` at each call. On the event loop alone."""

    def __init__(self, *, count: Callable[[], None], log: Log) -> None:
        """`count` is told of each."""
        self._count = count
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._peers: OrderedDict[str, None] = OrderedDict()  # over whose connections calls have come
        self._left = Refusals(log=log, listener="grpc", words="connections ended without a call")
        self._socket: socket.socket | None = None

    def open(self, port: int) -> None:
        """From here on the kernel tells of the port's."""
        try:
            self._socket = _subscribed(port)
        except OSError as error:
            self._log.info("connections that end without a call are not counted", problem=error.strerror)
            return
        self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Listens no more."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._left.close()

    def called(self, peer: str) -> None:
        """A call has come from a peer, as gRPC writes it."""
        self._peers[peer] = None
        self._peers.move_to_end(peer)
        if len(self._peers) > _PEERS:
            self._peers.popitem(last=False)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            if self._socket is None:
                return
            try:
                message = self._socket.recv(_MESSAGE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # more than there is room for: some are not counted
                    continue
                raise
            if (address := departed(message)) is not None:
                self._loop.call_later(_JUDGED_SECONDS, self._judge, *address)

    def _judge(self, host: str, port: int) -> None:
        if peer_name(host, port) not in self._peers:
            self._count()
            self._left.add(host)


def departed(message: bytes) -> tuple[str, int] | None:
    """Host and port of whoever said something over the connection that a message is about; None: nobody did, or the
    message is another."""
    if len(message) < _ATTRIBUTES_AT:
        return None
    family, _, port, _, host = _MESSAGE.unpack_from(message)
    number = int.from_bytes(port, "big")
    # A FIN counts as one byte.
    if not number or family not in (socket.AF_INET, socket.AF_INET6) or _received(message) <= 1:
        return None
    if family == socket.AF_INET or host.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, host[:4] if family == socket.AF_INET else host[-4:]), number
    return socket.inet_ntop(socket.AF_INET6, host), number


def _received(message: bytes) -> int:
    at = _ATTRIBUTES_AT
    while at + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        if size < 4:
            break
        if kind == _INFO and size >= 4 + _RECEIVED_AT + 8 and at + size <= len(message):
            (received,) = struct.unpack_from("=Q", message, at + 4 + _RECEIVED_AT)
            return int(received)
        at += (size + 3) & ~3  # NLA_ALIGN
    return 0


def _subscribed(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _SOCK_DIAG)
    try:
        # In the kernel, as there are all the machine's: ldh [sport]; jeq port; ret all; ret none (linux/filter.h).
        steps = [(0x28, 0, 0, _PORT_AT), (0x15, 0, 1, port), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(program)))
        sock.bind((0, _GROUPS))
    except BaseException:
        sock.close()
        raise
    return sock
