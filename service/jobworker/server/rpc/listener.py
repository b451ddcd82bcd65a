"""The port: mutual TLS, keepalive, limits. Knows no service."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from jobworker.server.listening import explained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobworker.server.rpc.connections import ConnectionLimits

MAX_REQUEST_BYTES = 4 << 20
_MAX_METADATA_BYTES = 16 << 10
_KEEPALIVE_MS = 10_000  # and as long again for the answer
_PING_TIMEOUT_MS = 20_000  # on a slow link a ping waits behind the data; still, who vanished is noticed within 30 s
_CLIENT_PING_MS = 5_000  # clients that ping more often than this are sent away
_MAX_STREAMS_PER_CONNECTION = 1000
_MAX_PENDING = 1_000_000
_PENDING_SECONDS = 300

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", _MAX_STREAMS_PER_CONNECTION),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
    # Of every ping. gRPC sends no second one while one is under way, as those that measure bandwidth often are; by
    # default that one would be waited for a minute.
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _CLIENT_PING_MS),
    # A call that gRPC has and nobody has taken yet: by default a thousand of them, and then some are dropped, which
    # their callers see as CANCELLED. Here each is taken, and refused with a status, see call.py and shares.py.
    ("grpc.server.max_pending_requests", _MAX_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
    ("grpc.server_max_unrequested_time_in_server", _PENDING_SECONDS),
)


class Tls(Protocol):
    """The server's key and certificate, and the CA that clients' certificates are of; PEM."""

    @property
    def private_key_pem(self) -> bytes: ...

    @property
    def certificate_chain_pem(self) -> bytes: ...

    @property
    def ca_pem(self) -> bytes: ...


class Listener:
    """A gRPC server on one address. `port` is the one in use, when 0 was asked for."""

    def __init__(
        self,
        *,
        tls: Tls,
        host: str,
        port: int,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        share_port: bool = False,
        connections: ConnectionLimits,
    ) -> None:
        """`share_port`: with who holds it for us (SO_REUSEPORT); without one, a second server would take the same port
        in silence, and half of the calls."""
        own = (
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.so_reuseport", int(share_port)),
            ("grpc.max_allowed_incoming_connections", connections.total),
            # From the connection to the first HTTP/2 settings; by default two minutes.
            ("grpc.server_handshake_timeout_ms", round(connections.handshake_seconds * 1000)),
        )
        self._server = grpc.aio.server(options=(*OPTIONS, *own))
        self._next: grpc.ServerCertificateConfiguration | None = None
        self._credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(tls),
            self._fetch,  # type: ignore[arg-type]  # which may well return None, says gRPC's documentation
            require_client_authentication=True,
        )
        self._host = host
        self.port = port

    def use(self, tls: Tls) -> None:
        """Another key, certificate or authority, for connections that come from now on."""
        self._next = _configuration(tls)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks before each handshake, in a thread of its own and one at a time; None: as before."""
        found, self._next = self._next, None
        return found

    async def start(self, handlers: Mapping[str, Any]) -> None:
        """Serves `handlers`, by full method name.

        Raises:
            OSError: the address cannot be listened on; the message says why.
        """
        # Not as registered methods: gRPC keeps a request for each of these outstanding, which costs a tenth.
        self._server.add_generic_rpc_handlers((_Generic(handlers),))
        address = f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"
        try:
            bound = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise _why(self._host, self.port) from error
        if not bound:
            raise _why(self._host, self.port)
        self.port = bound
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Closes the port, and connections when their calls are over or the grace is."""
        await self._server.stop(grace_seconds)


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.private_key_pem, tls.certificate_chain_pem)], root_certificates=tls.ca_pem
    )


class _Generic(grpc.GenericRpcHandler):
    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


def _why(host: str, port: int) -> OSError:
    """gRPC tells only that it failed: bind once more to learn why."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        return explained(error, host, port)
    return explained(OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)), host, port)
