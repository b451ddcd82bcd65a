"""The HTTPS listener: mutual TLS, connections within bounds, and each request to its route."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jobworker.server.errors import JobworkerError, NotFoundError, UnavailableError, invalid
from jobworker.server.listening import listen
from jobworker.server.rest import answer, openapi
from jobworker.server.rest.body import BodyLimits
from jobworker.server.rest.routes import Routes
from jobworker.server.rest.tls import server_context
from jobworker.server.rest.transcode import Transcoder
from jobworker.server.rpc import status
from jobworker.server.rpc.interceptors import LOGIN
from jobworker.server.telemetry.failure import describe, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobworker.server.rpc.interceptors import Layers
    from jobworker.server.rpc.listener import Tls
    from jobworker.server.telemetry.log import Log

_HEADER_BYTES = 16 << 10  # a line; as gRPC's metadata
_HANDSHAKE_SECONDS = 10.0
_LINGER_SECONDS = 2.0  # for the rest of a body that was refused, so that its sender reads the refusal
# As the gRPC listener: a client that vanished is noticed within 30 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 2}
_BACKLOG = 1024
_RETRY_SECONDS = 1.0
# Unsent, beside one message: what a slow reader holds. TLS transports have 512 KiB otherwise.
_WRITE_BYTES = 64 << 10
OPENAPI_PATH = "/openapi.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestLimits:
    """What one client may take of the service."""

    body_bytes: int = 6 << 20
    # For a request's body to come, and for an answer to go.
    body_seconds: float = 60.0
    # A request's header has to be there within it, and a connection may be silent for as long.
    idle_seconds: float = 60.0
    connections: int = 2000


class RestServer:
    """`start`, then `port`; `stop`."""

    def __init__(
        self,
        *,
        methods: Mapping[str, Any],
        layers: Layers,
        tls: Tls,
        host: str,
        port: int,
        share_port: bool = False,
        limits: RestLimits,
        log: Log,
        version: str,
        needs_token: Callable[[str], bool],
    ) -> None:
        """Args:
            methods: gRPC method handlers by full name, all that are served; those with an annotation get their routes.
            layers: what every call passes, whatever it comes over.
            version: of the interface's description.
            needs_token: whether a method, by its full name, takes a token; for the description too.

        Raises:
            ValueError: an annotation cannot be served.
        """
        self.port = port
        self._share_port = share_port
        self._host = host
        self._log = log
        self._limits = limits
        self._calls = layers.calls
        self._routes = Routes(methods)
        self._transcoder = Transcoder(
            routes=self._routes,
            methods=methods,
            layers=layers,
            limits=BodyLimits(max_bytes=limits.body_bytes, seconds=limits.body_seconds),
        )
        self._identity = layers.identity
        self._openapi = answer.Fixed(openapi.document(self._routes, version=version, needs_token=needs_token))
        self._context = server_context(tls, failed=layers.observer.handshake_failed)
        self._manager = _Manager(self._handle, limits=limits, connected=layers.observer.connected)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            OSError: the address cannot be listened on; the message says why.
        """
        sock = listen(self._host, self.port, backlog=_BACKLOG, share_port=self._share_port)
        self.port = sock.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(
            self._manager,
            sock=sock,
            ssl=self._context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            backlog=_BACKLOG,
        )

    async def stop(self, *, grace_seconds: float) -> None:
        """Closes the port, and connections when their answers are out or the grace is over. Calls under way are ended
        before, by those who own them."""
        if self._server is not None:
            self._server.close()
            self._manager.pre_shutdown()
            await self._manager.shutdown(grace_seconds)
            self._server = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            incident = secrets.token_hex(8)
            self._log.error(
                "rest broke",
                incident=incident,
                problem=describe(error),
                traceback=trace(error),
            )
            response = answer.status_response(request, status.internal(incident))
        if self._calls.closed_by is not None:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if _connection(request).surplus:
            full = UnavailableError("there are too many connections", retry_after_seconds=_RETRY_SECONDS)
            response = answer.status_response(request, status.of(full))
            response.force_close()
            return response
        # The path alone: an absolute form (RFC 9112 section 3.2.2) means the same here.
        path = request.rel_url.raw_path
        if path == OPENAPI_PATH:
            return await self._describe(request)
        match = self._routes.match(request.method, path)
        if match.route is not None:
            certificate = _connection(request).certificate_pem
            return await self._transcoder.answer(request, match.route, match.variables, certificate)
        if match.allowed:
            return _not_allowed(request, match.allowed)
        return answer.status_response(request, status.of(NotFoundError(f"there is nothing at {path[:200]}")))

    async def _describe(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, ("GET", "HEAD"))
        try:
            # It takes no token, and is for those that may get one: a user's certificate, valid now.
            self._identity.authenticate(
                method=LOGIN, certificate_pem=_connection(request).certificate_pem, authorization=None
            )
        except JobworkerError as error:
            return answer.status_response(request, status.of(error))
        return self._openapi.response(request)


class _Connection(RequestHandler):
    """One connection."""

    __slots__ = ("_certificate_pem", "surplus")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._certificate_pem: bytes | None = None
        _keep_alive(transport)
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(_WRITE_BYTES)
        super().connection_made(transport)
        manager = self._manager
        count = len(manager.connections) if isinstance(manager, _Manager) else 0
        most = manager.limits.connections if isinstance(manager, _Manager) else 0
        if isinstance(manager, _Manager):
            manager.connected()
        # One too many: it is told so when it asks for something. Of too many of those, nobody is told.
        self.surplus = count > most
        if count > 2 * most:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends an answer. No stream: those are over by now, and see to their slow readers themselves."""
        manager = self._manager
        seconds = manager.limits.body_seconds if isinstance(manager, _Manager) else None
        try:
            async with asyncio.timeout(seconds):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None

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


class _Manager(web.Server):
    """Makes connections."""

    def __init__(self, handler: Any, *, limits: RestLimits, connected: Callable[[], None]) -> None:
        silent = logging.Logger("jobworker.rest")  # the service has its own log; this one has no handler
        silent.addHandler(logging.NullHandler())
        super().__init__(handler, handler_cancellation=True)
        self.limits = limits
        self.connected = connected
        self._settings: dict[str, Any] = {
            "logger": silent,
            "access_log": None,
            "keepalive_timeout": limits.idle_seconds,
            "max_line_size": _HEADER_BYTES,
            "max_field_size": _HEADER_BYTES,
            "lingering_time": _LINGER_SECONDS,
            "auto_decompress": False,  # body.py does it, within limits
        }

    def __call__(self) -> _Connection:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._settings)


def _connection(request: web.BaseRequest) -> _Connection:
    connection = request.protocol
    assert isinstance(connection, _Connection)  # noqa: S101  (_Manager makes no others)
    return connection


def _not_allowed(request: web.BaseRequest, allowed: tuple[str, ...]) -> web.StreamResponse:
    return answer.status_response(
        request,
        status.unimplemented(f"{request.method[:20]} is not a method of this path"),
        http_status=405,  # RFC 9110 section 15.5.6
        headers={"Allow": ", ".join(allowed)},
    )


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed already
            for name, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
