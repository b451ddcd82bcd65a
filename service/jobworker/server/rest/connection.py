"""One HTTPS connection, from the end of its handshake on: its certificate, its place, and answers within a time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jobworker.server.errors import JobworkerError, invalid
from jobworker.server.rest import answer
from jobworker.server.rest.places import Places
from jobworker.server.rpc import status

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.server.acceptloop import Arrival
    from jobworker.server.rest.server import RestLimits

_HEADER_BYTES = 16 << 10  # a line; as gRPC's metadata
_LINGER_SECONDS = 2.0  # for the rest of a body that was refused, so that its sender reads the refusal
# As the gRPC listener: a client that vanished is noticed within 30 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 2}
# Unsent, beside one message: what a slow reader holds. TLS transports have 512 KiB otherwise.
_WRITE_BYTES = 64 << 10


class Connection(RequestHandler):
    """`refusal`: why it has no place, which it is told when it asks for something."""

    __slots__ = ("_arrival", "_certificate_pem", "refusal")

    def __init__(self, manager: Manager, arrival: Arrival, **settings: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **settings)
        self._arrival = arrival
        self._certificate_pem: bytes | None = None
        self.refusal: JobworkerError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrival.transport = cast("asyncio.WriteTransport", transport)
        _keep_alive(transport)
        self._arrival.transport.set_write_buffer_limits(_WRITE_BYTES)
        super().connection_made(transport)
        manager = self.manager
        if manager is None:
            return
        manager.connected()
        gone, self.refusal = manager.places.enter(self, hashlib.sha256(self.certificate_pem or b"").digest())
        if gone is not None:
            gone.force_close()
        # Without a place it stays among the strangers, and lives no longer than these.
        if self.refusal is None:
            self._arrival.admitted()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._arrival.left()
        if self.manager is not None:
            self.manager.places.leave(self)
        super().connection_lost(exc)

    @property
    def manager(self) -> Manager | None:
        """Who made it; None: it is over."""
        manager = self._manager
        return manager if isinstance(manager, Manager) else None

    def begin(self) -> None:
        """A request came."""
        if self.manager is not None:
            self.manager.places.busy(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends an answer. No stream: those are over by now, and see to their slow readers themselves."""
        manager = self.manager
        try:
            async with asyncio.timeout(None if manager is None else manager.limits.body_seconds):
                found = await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None
        if manager is not None:
            manager.places.idle(self)
        return found

    @property
    def certificate_pem(self) -> bytes | None:
        """The client's certificate."""
        if self._certificate_pem is None and self.transport is not None:
            session: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
            der = None if session is None else session.getpeercert(binary_form=True)
            self._certificate_pem = None if der is None else ssl.DER_cert_to_PEM_cert(der).encode()
        return self._certificate_pem

    def handle_error(
        self,
        request: web.BaseRequest,
        http_status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be read as HTTP; `_handle` has seen to everything else."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer has begun")
        words = (message or "").partition("\n")[0].rstrip(":") or "is not HTTP/1.1"
        response = answer.status_response(request, status.of(invalid("request", words)), http_status=http_status)
        response.force_close()
        return response


class Manager(web.Server):
    """Makes connections."""

    def __init__(self, handler: Any, *, limits: RestLimits, connected: Callable[[], None]) -> None:
        silent = logging.Logger("jobworker.rest")  # the service has its own log; this one has no handler
        silent.addHandler(logging.NullHandler())
        super().__init__(handler, handler_cancellation=True)
        self.limits = limits
        self.connected = connected
        self.places: Places[Connection] = Places(total=limits.connections, of_one=limits.connections_per_client)
        self._settings: dict[str, Any] = {
            "logger": silent,
            "access_log": None,
            "keepalive_timeout": limits.idle_seconds,
            "max_line_size": _HEADER_BYTES,
            "max_field_size": _HEADER_BYTES,
            "lingering_time": _LINGER_SECONDS,
            "auto_decompress": False,  # body.py does it, within limits
        }

    def make(self, arrival: Arrival) -> Connection:
        """The protocol of one."""
        return Connection(self, arrival, **self._settings)


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed already
            for name, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
