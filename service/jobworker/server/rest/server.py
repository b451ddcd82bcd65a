"""The HTTPS listener: mutual TLS, connections within bounds, and each request to its route."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from jobworker.server.acceptloop import AcceptLoop, StrangerLimits
from jobworker.server.errors import JobworkerError, NotFoundError, service_trouble
from jobworker.server.listening import listen
from jobworker.server.rest import answer, openapi
from jobworker.server.rest.body import BodyLimits
from jobworker.server.rest.connection import Connection, Manager
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

_BACKLOG = 1024
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
    connections_per_client: int = 100
    strangers: int = 500
    handshake_seconds: float = 10.0


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
        listening: socket.socket | None = None,
    ) -> None:
        """Args:
            methods: gRPC method handlers by full name, all that are served; those with an annotation get their routes.
            layers: what every call passes, whatever it comes over.
            version: of the interface's description.
            needs_token: whether a method, by its full name, takes a token; for the description too.
            listening: a socket that listens already, instead of host and port; owned from here on.

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
        self._manager = Manager(self._handle, limits=limits, connected=layers.observer.connected)
        self._listening = listening
        self._failed = layers.observer.handshake_failed
        self._loop = AcceptLoop(
            protocol=self._manager.make,
            limits=StrangerLimits(strangers=limits.strangers, seconds=limits.handshake_seconds),
            tls=self._context(tls),
            log=log,
            name="rest",
        )

    def use(self, tls: Tls) -> None:
        """Another key, certificate or authority, for connections that come from now on."""
        self._loop.tls = self._context(tls)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        return server_context(tls, failed=self._failed)

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            OSError: the address cannot be listened on; the message says why.
        """
        sock = self._listening or listen(self._host, self.port, backlog=_BACKLOG, share_port=self._share_port)
        self.port = sock.getsockname()[1]
        self._loop.start(sock)

    async def stop(self, *, grace_seconds: float) -> None:
        """Closes the port, and connections when their answers are out or the grace is over. Calls under way are ended
        before, by those who own them."""
        self._loop.close()
        self._manager.pre_shutdown()
        await self._manager.shutdown(grace_seconds)
        self._transcoder.close()

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
            short = service_trouble(error)
            response = answer.status_response(request, status.of(short) if short else status.internal(incident))
        if self._calls.closed_by is not None:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = _connection(request)
        connection.begin()
        if connection.refusal is not None:
            response = answer.status_response(request, status.of(connection.refusal))
            response.force_close()
            return response
        # The path alone: an absolute form (RFC 9112 section 3.2.2) means the same here.
        path = request.rel_url.raw_path
        if path == OPENAPI_PATH:
            return await self._describe(request)
        match = self._routes.match(request.method, path)
        if match.route is not None:
            return await self._transcoder.answer(request, match.route, match.variables, connection.certificate_pem)
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


def _connection(request: web.BaseRequest) -> Connection:
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101  (Manager makes no others)
    return connection


def _not_allowed(request: web.BaseRequest, allowed: tuple[str, ...]) -> web.StreamResponse:
    return answer.status_response(
        request,
        status.unimplemented(f"{request.method[:20]} is not a method of this path"),
        http_status=405,  # RFC 9110 section 15.5.6
        headers={"Allow": ", ".join(allowed)},
    )
