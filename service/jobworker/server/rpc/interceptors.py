"""What every call passes on its way to its handler, in one order: see LAYERS.

The layers are wrapped around each handler once, when it is registered, instead of gRPC interceptors that are looked up
for each call: those see no certificate, and cost a tenth of the throughput. Identity comes from the certificate and the
token alone, never from other metadata.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from jobworker.server.errors import (
    AuthReason,
    DamagedError,
    ExhaustedError,
    JobworkerError,
    PermissionDeniedError,
    UnauthenticatedError,
    invalid,
    service_trouble,
)
from jobworker.server.ids import CorrelationId
from jobworker.server.rpc import status
from jobworker.server.rpc.call import CURRENT, Call, Calls, Principal
from jobworker.server.rpc.handler import innermost, transport_handler
from jobworker.server.rpc.shares import Shares
from jobworker.server.slices import Slices
from jobworker.server.telemetry.calls import ACCEPTED, THROTTLED, CallObserver
from jobworker.server.telemetry.failure import describe, trace
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.tracecontext import remote_of
from jobworker.server.telemetry.traces import Traces

if TYPE_CHECKING:
    from google.rpc import status_pb2

    from jobworker.server.rpc.connections import Connections

CORRELATION_METADATA = "x-correlation-id"
AUTHORIZATION_METADATA = "authorization"

# Unary, and yet as long as the client likes.
LONG_METHODS = frozenset({"/jobworker.v1.JobQueryService/WaitBatch"})
LOGIN = "/jobworker.v1.AuthService/Login"
# Smaller than `grpc.max_message_bytes` where a method needs no more. A login takes a certificate alone.
REQUEST_BYTES_MAX = {LOGIN: 8 << 10}
# Each holds a file while it comes in.
_UPLOADS = frozenset({"/jobworker.v1.JobScheduleService/ExecuteJobs"})

Behaviour = Callable[[Call, Any, Any], Awaitable[Any]]
# What a call comes to: request and context, as the transport has them.
Entry = Callable[[Any, Any], Awaitable[Any]]


class Authenticator(Protocol):
    """Who calls, and whether they may."""

    def authenticate(self, *, method: str, certificate_pem: bytes | None, authorization: str | None) -> Principal: ...


class Audit(Protocol):
    """Who tells the audit log of calls."""

    def tells(self, method: str) -> bool: ...

    def told(
        self, call: Call, *, peer: str, transport: str, code: str = "OK", reason: str = ""
    ) -> Awaitable[None] | None: ...


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
    shares: Shares = field(default_factory=Shares)
    connections: Connections | None = None  # of gRPC, when they are counted
    audit: Audit | None = None

    def around(self, method: str, handler: Any, behaviour: Behaviour) -> Entry:
        """`behaviour`, which is what `handler` does, with every layer around it."""
        self.observer.serve(
            method, streams_in=bool(handler.request_streaming), streams_out=bool(handler.response_streaming)
        )
        for layer in reversed(LAYERS):
            behaviour = layer(self, method, behaviour)
        long = handler.response_streaming or method in LONG_METHODS
        upload = method in _UPLOADS

        async def entry(request: Any, context: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  (a coroutine that runs has a task)
            call = Call(method=method, long=long, upload=upload, task=task)
            CURRENT.set(call)
            return await behaviour(call, request, context)

        return entry

    def wrap(self, method: str, handler: Any) -> Any:
        """A gRPC handler with every layer around it."""
        inner = self.around(
            method, handler, innermost(handler, self.shares, self.slices, REQUEST_BYTES_MAX.get(method))
        )
        came_from, connections = self.observer.peer, self.connections

        async def entry(request: Any, context: Any) -> Any:
            peer = context.peer()
            came_from(peer)
            if connections is not None:
                connections.departures.called(peer)
            return await inner(request, context)

        return transport_handler(handler, entry)


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
    """Errors become statuses: those of the domain as they say, what the service is short of as RESOURCE_EXHAUSTED, a
    disk that fails as UNAVAILABLE, and others as INTERNAL with an incident's id."""

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
            answer = _answer(layers, call, service_trouble(error) or error)
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


def _audit(layers: Layers, method: str, proceed: Behaviour) -> Behaviour:
    """A line in the audit log, there before the answer goes out: of each call of some methods, and of what is refused
    of the others."""
    audit, transport = layers.audit, layers.transport
    if audit is None:
        return proceed
    tells = audit.tells(method)

    async def told(call: Call, context: Any, error: BaseException | None) -> None:
        code, reason = ("OK", "") if error is None else _outcome(error)
        call.token_id = call.token_id or getattr(error, "token_id", None)
        line = audit.told(call, peer=context.peer(), transport=transport, code=code, reason=reason)
        if line is not None:
            await line

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        try:
            answer = await proceed(call, request, context)
        except (asyncio.CancelledError, Exception) as raised:
            error = raised if call.cut_by is None else call.cut_by
            if tells or isinstance(error, UnauthenticatedError | PermissionDeniedError):
                await told(call, context, error)
            raise
        if tells:
            await told(call, context, None)
        return answer

    return behaviour


def _outcome(error: BaseException) -> tuple[str, str]:
    """Status and reason, as `_answer_errors` has them."""
    if isinstance(error, asyncio.CancelledError | grpc.aio.BaseError):  # the client is gone
        return "CANCELLED", ""
    found = service_trouble(error) or error
    if not isinstance(found, JobworkerError):
        return "INTERNAL", ""
    return status.name(status.of(found)), str(getattr(found, "reason", ""))


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
    """Who calls: from certificate and token, when the call begins. One that lasts is asked again: see reauth.py."""

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        certificates = context.auth_context().get("x509_pem_cert")
        call.certificate_pem = certificates[0] if certificates else None
        call.authorization = _authorization(context)
        call.principal = layers.identity.authenticate(
            method=method, certificate_pem=call.certificate_pem, authorization=call.authorization
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


def _share(layers: Layers, _method: str, proceed: Behaviour) -> Behaviour:
    """The caller has connections and calls left. A call over gRPC is over when its answer was taken, which may be long
    after its handler is done."""
    shares, is_grpc = layers.shares, layers.transport == "grpc"
    connections = layers.connections if is_grpc else None

    async def behaviour(call: Call, request: Any, context: Any) -> Any:
        assert call.principal is not None  # noqa: S101  (it was identified)
        user = call.principal.user
        if connections is not None:
            peer = context.peer()
            connection = connections.of(peer) or await connections.admit(peer, user)
            connection.begin()
            call.at_end.append(connection.end)
        try:
            shares.enter(user, call)
            call.at_end.append(partial(shares.leave, user, call))
            if not call.upload:
                return await proceed(call, request, context)
            async with shares.uploads(call):
                return await proceed(call, request, context)
        finally:
            if is_grpc:
                call.task.add_done_callback(call.finish)
            else:  # there a task is a connection's
                call.finish()

    return behaviour


# The order, outermost first.
LAYERS: tuple[Callable[[Layers, str, Behaviour], Behaviour], ...] = (
    _measure,
    _trace,
    _observe,
    _answer_errors,
    _audit,
    _count_refusals,
    _identify,
    _share,
    _correlate,
)


async def echo_correlation(call: Call, context: Any) -> None:
    """Sends the headers, with the client's correlation id. Fails when the client has cancelled: where a request stream
    ends, gRPC does not tell that from the end of what the client had to say."""
    metadata = () if call.correlation_id is None else ((CORRELATION_METADATA, str(call.correlation_id)),)
    await context.send_initial_metadata(metadata)


def _authorization(context: Any) -> str | None:
    values = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION_METADATA]
    if len(values) > 1:
        raise UnauthenticatedError(AuthReason.TOKEN_MALFORMED, "there is more than one token")
    return values[0] if values else None
