"""What a servicer is handed as its context when the call came over HTTP: the part of grpc.aio.ServicerContext that the
layers and the servicers use."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jobworker.server.errors import invalid
from jobworker.server.rpc.sockets import peer_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web
    from google.rpc import status_pb2

TIMEOUT_HEADER = "grpc-timeout"

# TimeoutValue TimeoutUnit, of "gRPC over HTTP2": at most eight digits.
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class RestContext:
    """One call. `failure` is the status that it ended with, None while it is well."""

    def __init__(
        self, request: web.BaseRequest, *, certificate_pem: bytes | None, write: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._request = request
        self._certificate_pem = certificate_pem
        self._write = write
        self.headers: dict[str, str] = {}  # of the response
        self.http_status: int | None = None  # where the failure has one of its own
        self.failure: status_pb2.Status | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        """As gRPC has it; the certificate alone."""
        return {} if self._certificate_pem is None else {"x509_pem_cert": [self._certificate_pem]}

    def peer(self) -> str:
        """The client's address, as gRPC has it; empty when the client is gone."""
        transport = self._request.transport
        found = None if transport is None else transport.get_extra_info("peername")
        return "" if not found else peer_name(*found[:2])

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """The request's headers."""
        return [(name.lower(), value) for name, value in self._request.headers.items()]

    async def send_initial_metadata(self, metadata: Iterable[tuple[str, str]]) -> None:
        """Headers of the response.

        Raises:
            asyncio.CancelledError: the client is gone.
        """
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise asyncio.CancelledError
        self.headers.update(metadata)

    async def write(self, message: Any) -> None:
        """Sends a message of a stream; waits while the client takes nothing.

        Raises:
            asyncio.CancelledError: the client is gone.
        """
        try:
            await self._write(message)
        except ConnectionError:
            raise asyncio.CancelledError from None

    def timeout_seconds(self) -> float | None:
        """How long the client gives the call.

        Raises:
            InvalidRequestError: the header is not of its form.
        """
        value = self._request.headers.get(TIMEOUT_HEADER)
        if value is None:
            return None
        found = _TIMEOUT.fullmatch(value.strip())
        if found is None:
            raise invalid(TIMEOUT_HEADER, 'is not a timeout such as "5S" or "100m"')
        return int(found[1]) * _UNIT_SECONDS[found[2]]


async def end(context: RestContext, status: status_pb2.Status) -> None:
    """Ends a call with a status (`Layers.end`): it is answered once the layers are left."""
    context.failure = status
