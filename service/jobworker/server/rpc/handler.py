"""A gRPC handler as the layers have it: all four kinds as one, and its requests received with a time limit.

gRPC itself would wait for a request as long as the client likes, before anybody asks who calls. So here every method
takes a stream of requests, and the one request of those that have but one is read behind the layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from jobworker.server.errors import DeadlineError, invalid
from jobworker.server.rpc.parse import parse
from jobworker.server.rpc.stall import Stall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from jobworker.server.rpc.call import Call
    from jobworker.server.rpc.shares import Shares
    from jobworker.server.slices import Slices


def transport_handler(handler: Any, entry: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """What gRPC calls for `handler`: `entry`, with nothing received."""
    make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    # Requests are decoded inside the layers: gRPC would answer garbage with UNKNOWN and the exception's text.
    return make(entry, request_deserializer=None, response_serializer=_serializer(handler.response_serializer))


def servicer_method(handler: Any) -> Callable[[Any, Any], Any]:
    """What the servicer has for a gRPC handler, whichever of the four kinds it is."""
    method: Callable[[Any, Any], Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return method


def innermost(
    handler: Any, shares: Shares, slices: Slices, most_bytes: int | None
) -> Callable[[Call, Any, Any], Awaitable[Any]]:
    """The handler itself, receiving and decoding what it is sent; a request of more than `most_bytes` is refused."""
    decode = handler.request_deserializer
    inner = servicer_method(handler)
    upload = handler.request_streaming and not handler.response_streaming

    async def one(call: Call, _request: Any, context: Any) -> Any:
        async with shares.requests(call):
            raw = await _receive(call, context, shares.idle_seconds)
        # Refused by size is what it would take time to decode.
        if most_bytes is not None and len(raw) > most_bytes:
            raise invalid("request", f"has more than {most_bytes} bytes")
        return await _run(inner(await _decode(raw, decode, slices), context), context)

    async def many(call: Call, raws: AsyncIterator[bytes], context: Any) -> Any:
        if not upload:
            return await _run(inner(_decoded(raws, decode, slices), context), context)
        with _patience(call, shares.idle_seconds) as patience:
            return await inner(_decoded(_timed(raws, patience), decode, slices), context)

    return many if handler.request_streaming else one


async def _run(result: Any, context: Any) -> Any:
    if hasattr(result, "__aiter__"):  # reflection's are generators
        async for response in result:
            await context.write(response)
        return None
    return await result


async def _receive(call: Call, context: Any, seconds: float) -> bytes:
    with _patience(call, seconds) as patience:
        patience.begin()
        raw: Any = await context.read()
        patience.end()
    if raw is grpc.aio.EOF:
        raise invalid("request", "is missing")
    return bytes(raw)


async def _timed(raws: AsyncIterator[bytes], patience: Stall) -> AsyncIterator[bytes]:
    patience.begin()
    async for raw in raws:
        patience.end()
        yield raw
        patience.begin()
    patience.end()


def _patience(call: Call, seconds: float) -> Stall:
    error = DeadlineError(f"nothing of the request has come for {seconds:g} s")
    return Stall(call=call, stall_seconds=seconds, error=error)


async def _decode(raw: bytes, decode: Callable[[bytes], Any], slices: Slices) -> Any:
    message = decode(b"")
    try:
        await parse(message, raw, slices)
    except DecodeError as error:
        raise invalid("request", "is not a message of this method") from error
    return message


async def _decoded(raws: AsyncIterator[bytes], decode: Callable[[bytes], Any], slices: Slices) -> AsyncIterator[Any]:
    async for raw in raws:
        yield await _decode(raw, decode, slices)


def _serializer(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Responses that are bytes are messages already, see chunk.py."""

    def serialized(message: Any) -> bytes:
        return message if type(message) is bytes else serialize(message)

    return serialized
