"""What every call passes on its way to its handler, in one order: see LAYERS.

The layers are wrapped around each handler once, when it is registered, instead of gRPC interceptors that are looked up
for each call: those see no certificate, and cost a tenth of the throughput. Identity comes from the certificate and the
token alone, never from other metadata.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from jobworker.server.errors import (
    AuthReason,
    DamagedError,
    ExhaustedError,
    JobworkerError,
    PermissionDeniedError,
    UnauthenticatedError,
    invalid,
)
from jobworker.server.ids import CorrelationId
from jobworker.server.rpc import status
from jobworker.server.rpc.call import CURRENT, Call, Calls, Principal
from jobworker.server.rpc.parse import parse
from jobworker.server.slices import Slices
from jobworker.server.telemetry.calls import ACCEPTED, THROTTLED, CallObserver
from jobworker.server.telemetry.failure import describe, trace
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.tracecontext import remote_of
from jobworker.server.telemetry.traces import Traces

if TYPE_CHECKING:
    from google.rpc import status_pb2

CORRELATION_METADATA = "x-correlation-id"
AUTHORIZATION_METADATA = "authorization"

# Unary, and yet as long as the client likes.
LONG_METHODS = frozenset({"/jobworker.v1.JobQueryService/WaitBatch"})
LOGIN = "/jobworker.v1.AuthService/Login"
# Smaller than `grpc.max_message_bytes` where a method needs no more. A login takes a certificate alone.
REQUEST_BYTES_MAX = {LOGIN: 8 << 10}

Behaviour = Callable[[Call, Any, Any], Awaitable[Any]]
# What a call comes to: request and context, as the transport has them.
Entry = Callable[[Any, Any], Awaitable[Any]]


class Authenticator(Protocol):
    """Who calls, and whether they may."""

    def authenticate(self, *, method: str, certificate_pem: bytes | None, authorization: str | None) -> Principal: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What the layers work with; `end` ends a call with a status, as its transport does that."""

    identity: Authenticator
    calls: Calls
    log: Log
    clock_seconds: Callable[[], float]
    traces: Traces
    slices: Slices
    transport: str = "grpc"
    end: Callable[[Any, status_pb2.Status], Awaitable[Any]] = status.end
    observer: CallObserver = field(default_factory=CallObserver)

    def around(self, method: str, handler: Any, behaviour: Behaviour) -> Entry:
        """`behaviour`, which is what `handler` does, with every layer around it."""
        self.observer.serve(
            method, streams_in=bool(handler.request_streaming), streams_out=bool(handler.response_streaming)
        )
        for layer in reversed(LAYERS):
            behaviour = layer(self, method, behaviour)
        long = handler.response_streaming or method in LONG_METHODS

        async def entry(request: Any, context: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  (a coroutine that runs has a task)
            call = Call(method=method, long=long, task=task)
            CURRENT.set(call)
            return await behaviour(call, request, context)

        return entry

    def wrap(self, method: str, handler: Any) -> Any:
        """A gRPC handler with every layer around it."""
        inner = self.around(method, handler, _innermost(method, handler, self.slices))
        came_from = self.observer.peer

        async def entry(request: Any, context: Any) -> Any:
            came_from(context.peer())
            return await inner(request, context)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        # Requests are decoded inside the layers: gRPC would answer garbage with UNKNOWN and the exception's text.
        return make(entry, request_deserializer=None, response_serializer=_serializer(handler.response_serializer))


def _measure(layers: Layers, method: str, proceed: Behaviour) -> Behaviour:
    """The call is counted, and timed."""
    observer, clock_seconds = layers.observer, layers.clock_seconds

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        observer.started(method)
        began = clock_seconds()
        try:
            return await proceed(call, request, context)
        finally:
            observer.ended(method, call.code, clock_seconds() - began, call.batch or call.correlation_id)

    return behaviour


def _trace(layers: Layers, method: str, proceed: Behaviour) -> Behaviour:
    """A span for each call, in the trace that its caller tells, if it tells one."""

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        call.remote = remote_of(context.invocation_metadata() or ())
        call.record = layers.traces.call_began(method, layers.transport, call.remote)
        if call.record is None:
            return await proceed(call, request, context)
        try:
            return await proceed(call, request, context)
        finally:
            layers.traces.call_ended(
                call.record,
                code=call.code,
                user=call.principal.user if call.principal else None,
                batch=call.batch or call.correlation_id,
            )

    return behaviour


def _observe(layers: Layers, method: str, proceed: Behaviour) -> Behaviour:
    """A line in the log for each call, and its place among the calls under way."""

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        began = layers.clock_seconds()
        try:
            return await proceed(call, request, context)
        except asyncio.CancelledError:
            call.code = "CANCELLED" if call.code == "OK" else call.code
            raise
        finally:
            layers.calls.leave(call)
            layers.log.info(
                "rpc",
                method=method,
                code=call.code,
                user=call.principal.user if call.principal else None,
                correlation_id=call.batch or call.correlation_id,
                seconds=round(layers.clock_seconds() - began, 6),
            )

    return behaviour


def _answer_errors(layers: Layers, _method: str, proceed: Behaviour) -> Behaviour:
    """Errors become statuses: those of the domain as they say, others as INTERNAL with an incident's id."""

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        try:
            layers.calls.enter(call)
            return await proceed(call, request, context)
        except asyncio.CancelledError:
            if call.cut_by is None:
                raise
            call.task.uncancel()
            answer = status.of(call.cut_by)
        except grpc.aio.AbortError:  # health's own NOT_FOUND, say: gRPC has sent the status
            call.code = getattr(context.code(), "name", "UNKNOWN")
            raise
        except grpc.aio.BaseError:
            # A write to a client that is gone fails with ExecuteBatchError, and no CancelledError may come.
            raise asyncio.CancelledError from None
        except Exception as error:
            answer = _answer(layers, call, error)
        call.code = status.name(answer)
        return await layers.end(context, answer)

    return behaviour


def _answer(layers: Layers, call: Call, error: Exception) -> status_pb2.Status:
    if not isinstance(error, JobworkerError):
        incident = secrets.token_hex(8)
        layers.log.error(
            "rpc broke",
            method=call.method,
            incident=incident,
            correlation_id=call.batch or call.correlation_id,
            problem=describe(error),
            traceback=trace(error),
        )
        return status.internal(incident)
    if error.__cause__ is not None or isinstance(error, DamagedError):
        layers.log.warning(
            "rpc failed",
            method=call.method,
            problem=str(error),
            cause=describe(error.__cause__),
            path=error.path if isinstance(error, DamagedError) else None,
            correlation_id=call.batch or call.correlation_id,
        )
    return status.of(error)


def _count_refusals(layers: Layers, method: str, proceed: Behaviour) -> Behaviour:
    """Logins by their outcome, and of other calls those that are not let in."""
    observer = layers.observer

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        try:
            return await proceed(call, request, context)
        except (UnauthenticatedError, PermissionDeniedError) as error:
            observer.denied(error.reason)
            raise

    async def login(call: Call, request: Any, context: Any) -> Any:
        try:
            answer = await proceed(call, request, context)
        except UnauthenticatedError as error:
            observer.login(error.reason)
            raise
        except ExhaustedError:
            observer.login(THROTTLED)
            raise
        observer.login(ACCEPTED)
        return answer

    return login if method == LOGIN else behaviour


def _identify(layers: Layers, method: str, proceed: Behaviour) -> Behaviour:
    """Who calls: from certificate and token, when the call begins. One that lasts longer than the token goes on."""

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        certificates = context.auth_context().get("x509_pem_cert")
        call.certificate_pem = certificates[0] if certificates else None
        call.principal = layers.identity.authenticate(
            method=method, certificate_pem=call.certificate_pem, authorization=_authorization(context)
        )
        return await proceed(call, request, context)

    return behaviour


def _correlate(_layers: Layers, _method: str, proceed: Behaviour) -> Behaviour:
    """The batch's name as the client chose it, if it did; nothing is taken from it but the name."""

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        for key, value in context.invocation_metadata() or ():
            if key == CORRELATION_METADATA:
                if call.correlation_id is not None:
                    raise invalid(CORRELATION_METADATA, "is given twice")
                call.correlation_id = CorrelationId.parse(value, field=CORRELATION_METADATA)
        return await proceed(call, request, context)

    return behaviour


# The order, outermost first.
LAYERS: tuple[Callable[[Layers, str, Behaviour], Behaviour], ...] = (
    _measure,
    _trace,
    _observe,
    _answer_errors,
    _count_refusals,
    _identify,
    _correlate,
)


async def echo_correlation(call: Call, context: Any) -> None:
    """Sends the headers, with the client's correlation id. Fails when the client has cancelled: where a request stream
    ends, gRPC does not tell that from the end of what the client had to say."""
    metadata = () if call.correlation_id is None else ((CORRELATION_METADATA, str(call.correlation_id)),)
    await context.send_initial_metadata(metadata)


def servicer_method(handler: Any) -> Callable[[Any, Any], Any]:
    """What the servicer has for a gRPC handler, whichever of the four kinds it is."""
    method: Callable[[Any, Any], Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return method


def _authorization(context: Any) -> str | None:
    values = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION_METADATA]
    if len(values) > 1:
        raise UnauthenticatedError(AuthReason.TOKEN_MALFORMED, "there is more than one token")
    return values[0] if values else None


def _innermost(method: str, handler: Any, slices: Slices) -> Behaviour:
    """The handler itself, decoding what it is sent; all four kinds as one."""
    decode, most_bytes = handler.request_deserializer, REQUEST_BYTES_MAX.get(method)
    inner = servicer_method(handler)

    async def behaviour(_call: Call, request: Any, context: Any) -> Any:
        if handler.request_streaming:
            message = _decoded(request, decode, slices)
        else:
            # Refused by size is what it would take time to decode.
            if most_bytes is not None and len(request) > most_bytes:
                raise invalid("request", f"has more than {most_bytes} bytes")
            message = await _decode(request, decode, slices)
        result = inner(message, context)
        if hasattr(result, "__aiter__"):  # reflection's are generators
            async for response in result:
                await context.write(response)
            return None
        return await result

    return behaviour


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
