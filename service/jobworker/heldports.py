"""The service's TCP ports, held by its supervisor: when the server dies, no other process can take one before the next
server has it.

A holder is bound and does not listen. It lets in sockets of the same user that share the port as it does (SO_REUSEPORT,
socket(7)), which the server's do, and which jobs cannot make: they are another user's, or are kept from it (landlock.py
and seccomp.py of the executor). It does not set SO_REUSEADDR: with that, whoever sets it as well could bind the port.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from jobworker.server.config.model import Settings
from jobworker.server.listening import explained

_EVERY = {"0.0.0.0", "::"}  # noqa: S104  compared with, not listened on


class PortError(Exception):
    """A port cannot be had; the message says which, and why."""


def listeners(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Section, host and port of each; of those that take any free port, none."""
    grpc, rest, metrics = settings.grpc, settings.rest, settings.metrics
    for name, host, port, enabled in (
        ("grpc", grpc.host, grpc.port, True),
        ("rest", rest.host, rest.port, rest.enabled),
        ("metrics", metrics.host, metrics.port, metrics.enabled),
    ):
        if enabled and port:
            yield name, host, port


def hold_ports(settings: Settings, *, say: Callable[[str], object]) -> ExitStack:
    """Holds each listener's address until what is returned is closed. `say`: a line to the operator.

    Raises:
        PortError: somebody has one of them.
    """
    with ExitStack() as held:
        for name, host, port in listeners(settings):
            try:
                for family, address in _addresses(host, port):
                    held.enter_context(_hold(family, address, say))
            except OSError as e:
                raise PortError(f"{name}: {explained(e, host, port).strerror}") from e
        return held.pop_all()


def _hold(family: socket.AddressFamily, address: tuple[str, int], say: Callable[[str], object]) -> socket.socket:
    with _socket(family) as probe:
        # Whether it is free but for connections on their way out.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    sock = _socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as e:
        if e.errno != errno.EADDRINUSE:
            sock.close()
            raise
        # Connections of a server that did not share its port are still on their way out (TIME_WAIT, tcp(7)).
        say(f"port {address[1]} on {address[0]} is not held: {e.strerror}")
    return sock


def _socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    if host in _EVERY:
        # gRPC listens on every address of both kinds for either.
        return [(socket.AF_INET6, ("::", port)) if socket.has_dualstack_ipv6() else (socket.AF_INET, (host, port))]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return sorted({(family, (str(sockaddr[0]), port)) for family, _, _, _, sockaddr in found})
