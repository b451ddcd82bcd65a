"""Plain HTTP for who watches the service: /metrics, /livez and /readyz. Nothing else, and nothing that needs a secret.

A connection carries one request and lives some seconds: whoever sends slowly, reads slowly or says nothing holds one of
few places for that long, and gives way to who comes after.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jobworker.server.acceptloop import AcceptLoop, StrangerLimits
from jobworker.server.listening import listen
from jobworker.server.telemetry.failure import describe, trace

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from jobworker.server.acceptloop import Arrival
    from jobworker.server.telemetry.log import Log

_LIFE_SECONDS = 10.0  # Prometheus gives up a scrape after as long (scrape_timeout)
_HEADER_BYTES = 8 << 10
_CLOSE_SECONDS = 1.0
_BACKLOG = 128


class Endpoint:
    """`start`, then `port`; `stop`."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        share_port: bool = False,
        metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
        ready: Callable[[], tuple[bool, bytes]],
        connections: int,
        log: Log,
        listening: socket.socket | None = None,
    ) -> None:
        """`metrics` gives text and content type for an Accept header; `ready` an answer, and a JSON object about it.
        `connections` at a time. `listening` is a socket that listens already, instead of host and port."""
        self.port = port
        self._share_port = share_port
        self._host = host
        self._metrics = metrics
        self._ready = ready
        self._log = log
        self._manager = _Manager(self._handle)
        self._listening = listening
        self._loop = AcceptLoop(
            protocol=self._manager.make,
            limits=StrangerLimits(strangers=connections, seconds=_LIFE_SECONDS),
            log=log,
            name="metrics",
        )

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            OSError: the address cannot be listened on; the message says why.
        """
        sock = self._listening
        if sock is None:
            try:
                sock = listen(self._host, self.port, backlog=_BACKLOG, share_port=self._share_port)
            except OSError as error:
                raise OSError(error.errno, f"metrics: {error.strerror}") from error
        self.port = sock.getsockname()[1]
        self._loop.start(sock)

    async def stop(self) -> None:
        """Closes the port and its connections."""
        self._loop.close()
        self._manager.pre_shutdown()
        await self._manager.shutdown(_CLOSE_SECONDS)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            # Nobody's call fails for it; but an operator wants to know why there are no figures.
            self._log.error("metrics broke", problem=describe(error), traceback=trace(error))
            response = _text(500, b"this is in the service's log\n")
        response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path not in ("/metrics", "/livez", "/readyz"):
            return _text(404, b"there are /metrics, /livez and /readyz\n")
        if request.method not in ("GET", "HEAD"):
            return _text(405, b"GET alone\n", Allow="GET, HEAD")
        if path == "/livez":
            return _text(200, b"ok\n")  # the event loop runs: it has just answered
        if path == "/readyz":
            is_ready, body = self._ready()
            return _response(200 if is_ready else 503, body, "application/json")
        body, content_type = await self._metrics(request.headers.get("Accept", ""))
        return _response(200, body, content_type)


def _text(status: int, body: bytes, **headers: str) -> web.Response:
    return _response(status, body, "text/plain; charset=utf-8", **headers)


def _response(status: int, body: bytes, content_type: str, **headers: str) -> web.Response:
    fixed = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=status, body=body, headers={**fixed, **headers})


class _Connection(RequestHandler):
    """It stays among those that give way, until it is over."""

    __slots__ = ("_arrival",)

    def __init__(self, manager: _Manager, arrival: Arrival, **settings: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **settings)
        self._arrival = arrival

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrival.transport = cast("asyncio.WriteTransport", transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._arrival.left()
        super().connection_lost(exc)


class _Manager(web.Server):
    def __init__(self, handler: Any) -> None:
        silent = logging.Logger("jobworker.metrics")  # the service has its own log; this one has no handler
        silent.addHandler(logging.NullHandler())
        super().__init__(handler, handler_cancellation=True)
        self._settings: dict[str, Any] = {
            "logger": silent,
            "access_log": None,
            "max_line_size": _HEADER_BYTES,
            "max_field_size": _HEADER_BYTES,
            "lingering_time": 0,
        }

    def make(self, arrival: Arrival) -> _Connection:
        """The protocol of one."""
        return _Connection(self, arrival, **self._settings)
