"""Responses: JSON or a google.rpc.Status as JSON, compressed where that is asked for."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from jobworker.server.rest import encode
from jobworker.server.rpc import status as statuses

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"
GZIP_WBITS = 16 + zlib.MAX_WBITS
GZIP_LEVEL = 1  # by far the fastest, and JSON shrinks well with it

# Below this a compressed answer is hardly smaller.
_COMPRESS_BYTES = 1024
COMMON_HEADERS = {
    "Server": "jobworker",  # and not which libraries it has
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}


def json_response(
    request: web.BaseRequest, value: Any, *, http_status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON value."""
    body = encode.to_bytes(value)
    is_gzip = len(body) >= _COMPRESS_BYTES and takes_gzip(request)
    return encoded_response(_gzip(body) if is_gzip else body, is_gzip=is_gzip, http_status=http_status, headers=headers)


def encoded_response(
    body: bytes, *, is_gzip: bool, http_status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """JSON as text, or that compressed."""
    all_headers = {**COMMON_HEADERS, "Content-Type": JSON, **(headers or {})}
    if is_gzip:
        all_headers["Content-Encoding"] = "gzip"
    return web.Response(status=http_status, body=body, headers=all_headers)


class Fixed:
    """A JSON value that is always the same, encoded once."""

    def __init__(self, value: Any) -> None:
        self._text = encode.to_bytes(value)
        self._gzip = _gzip(self._text)

    def response(self, request: web.BaseRequest) -> web.Response:
        """It, as an answer."""
        is_gzip = takes_gzip(request)
        return encoded_response(self._gzip if is_gzip else self._text, is_gzip=is_gzip)


def status_response(
    request: web.BaseRequest,
    status: status_pb2.Status,
    *,
    http_status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """A failure; `http_status` where it has one that its code does not tell."""
    all_headers = dict(headers or {})
    http_status = http_status or statuses.http(status)
    if http_status == 401:  # RFC 9110 section 15.5.2: it names how to authenticate
        all_headers["WWW-Authenticate"] = "Bearer"  # RFC 6750 section 3
    if (seconds := _retry_after(status)) is not None:
        all_headers["Retry-After"] = str(seconds)
    return json_response(request, encode.to_object(status), http_status=http_status, headers=all_headers)


def takes_gzip(request: web.BaseRequest) -> bool:
    """Whether the client takes gzip (RFC 9110 section 12.5.3)."""
    for part in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, *parameters = (item.strip() for item in part.split(";"))
        if coding in ("gzip", "x-gzip", "*"):
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
    return False


def _gzip(text: bytes) -> bytes:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WBITS)
    return compressor.compress(text) + compressor.flush()


def _retry_after(status: status_pb2.Status) -> int | None:
    """Whole seconds, rounded up, of the RetryInfo that a status has."""
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            delay: Duration = retry.retry_delay
            return int(delay.seconds + (delay.nanos > 0))
    return None
