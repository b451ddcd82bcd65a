"""A TCP port to listen on, and in words why there is none."""

from __future__ import annotations

import errno
import socket


def listen(host: str, port: int, *, backlog: int, share_port: bool = False) -> socket.socket:
    """A listening socket; port 0 is any free one. `share_port`: with who holds it for us (SO_REUSEPORT).

    asyncio would make `::` an address of IPv6 alone; here, as for gRPC,
    it is every one.

    Raises:
        OSError: the address cannot be listened on; the message says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    every = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (host, port), family=family, backlog=backlog, reuse_port=share_port, dualstack_ipv6=every
        )
    except OSError as error:
        raise explained(error, host, port) from error


def explained(error: OSError, host: str, port: int) -> OSError:
    """What bind(2) or listen(2) said of an address, for people."""
    if error.errno == errno.EADDRINUSE:
        return OSError(errno.EADDRINUSE, f"port {port} on {host} is taken by another process")
    return OSError(error.errno or errno.EINVAL, f"cannot listen on {host} port {port}: {error.strerror or error}")
