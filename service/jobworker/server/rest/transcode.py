"""One HTTP request as a call of a servicer: request in, layers around, answer out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from jobworker.server.errors import DeadlineError, invalid
from jobworker.server.rest import answer, body, context, decode, encode, query
from jobworker.server.rest.refusal import HTTP_REFUSALS
from jobworker.server.rest.resume import LAST_EVENT_ID, ResumeToken
from jobworker.server.rest.stream import Events, Lines, Stream
from jobworker.server.rpc.handler import servicer_method
from jobworker.server.rpc.interceptors import REQUEST_BYTES_MAX
from jobworker.server.threads import StartedPool
from jobworker.v1 import query_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from jobworker.server.rest.routes import Method, Route, Routes
    from jobworker.server.rpc.call import Call
    from jobworker.server.rpc.interceptors import Behaviour, Entry, Layers

T = TypeVar("T")

STREAM_LOGS = "/jobworker.v1.JobQueryService/StreamLogs"
GET_BATCH = "/jobworker.v1.JobQueryService/GetBatch"

# Larger texts and answers are read and written beside the event loop: some milliseconds.
_ASIDE_BYTES = 4 << 10
# HEAD of a stream has waited long enough by then to know that the call is well.
_HEAD_SECONDS = 1.0


class _HeadersAreEnough(Exception):  # noqa: N818
    """The first message of a stream that only HEAD asked for."""


@dataclass(slots=True)
class _Exchange:
    """A request with what its route says of it."""

    http: web.BaseRequest
    variables: Mapping[str, str]
    resume: ResumeToken | None = None  # of a stream of logs as events
    complete: bool = field(default=False)  # ... that has no more to say


class Transcoder:
    """Answers the requests of all routes."""

    def __init__(self, *, routes: Routes, methods: Mapping[str, Any], layers: Layers, limits: body.BodyLimits) -> None:
        """Args:
        methods: gRPC method handlers by full name.
        layers: what every call passes, whatever it comes over.
        """
        self._limits = limits
        # One: all its work is Python's, and the event loop would wait for each thread that has some.
        self._aside = StartedPool(1, name="rest")
        self._get_batch = servicer_method(methods[GET_BATCH]) if GET_BATCH in methods else None
        layers = replace(layers, end=context.end, transport="rest")
        self._entries: dict[Route, Entry] = {
            route: layers.around(route.method.name, route.method.handler, self._behaviour(route)) for route in routes
        }

    def close(self) -> None:
        """Ends its thread."""
        self._aside.shutdown(wait=False, cancel_futures=True)

    def _limits_of(self, method: str) -> body.BodyLimits:
        most = REQUEST_BYTES_MAX.get(method, self._limits.max_bytes)
        return replace(self._limits, max_bytes=min(most, self._limits.max_bytes))

    async def _run_aside(self, size: int, work: Callable[[], T]) -> T:
        """The result of work on so many bytes."""
        if size <= _ASIDE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    async def answer(
        self, request: web.BaseRequest, route: Route, variables: Mapping[str, str], certificate_pem: bytes | None
    ) -> web.StreamResponse:
        """Calls the route's method."""
        exchange = _Exchange(request, variables)
        entry = self._entries[route]
        if route.method.streams_out and request.method != "HEAD":
            return await _answer_stream(exchange, route.method, entry, certificate_pem)
        call = context.RestContext(request, certificate_pem=certificate_pem, write=_stop)
        response = await entry(exchange, call)
        if call.failure is not None:
            return answer.status_response(request, call.failure, http_status=call.http_status, headers=call.headers)
        if route.method.streams_out:
            return web.Response(
                headers={**answer.COMMON_HEADERS, **call.headers, "Content-Type": _form(request).content_type}
            )
        return await self._run_aside(
            response.ByteSize(),
            lambda: answer.json_response(request, _unary(route, response), headers=call.headers),
        )

    def _behaviour(self, route: Route) -> Behaviour:
        """What is innermost of all layers: the servicer, told what the HTTP request says."""
        inner = servicer_method(route.method.handler)

        async def behaviour(call: Call, exchange: _Exchange, to: context.RestContext) -> Any:
            try:
                with _deadline(call, to.timeout_seconds()):
                    return await self._call(route, inner, exchange, to)
            except HTTP_REFUSALS as error:
                to.http_status = error.http_status
                raise

        return behaviour

    async def _call(
        self, route: Route, inner: Callable[[Any, Any], Any], exchange: _Exchange, to: context.RestContext
    ) -> Any:
        if route.method.streams_in:
            async with aclosing(self._messages(route, exchange)) as messages:
                return await inner(messages, to)
        message = await self._message(route, exchange)
        if exchange.resume is not None and not await self._resume(exchange, message, to):
            return None
        if not route.method.streams_out:
            return await inner(message, to)
        if exchange.http.method != "HEAD":
            return await _run(inner(message, to), to)
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                return await _run(inner(message, to), to)
        except (_HeadersAreEnough, TimeoutError):
            return None

    async def _message(self, route: Route, exchange: _Exchange) -> Message:
        message = route.method.request()
        if route.body:
            read = body.Body(exchange.http, self._limits_of(route.method.name))
            read.check_type(body.JSON_TYPES)
            text = await read.whole()
            if text.strip():
                await self._run_aside(len(text), lambda: _fill(message, route, text))
        _put_parameters(message, route, exchange)
        return message

    async def _messages(self, route: Route, exchange: _Exchange) -> AsyncGenerator[Message]:
        """A message a line, each read when the servicer wants it."""
        _put_parameters(route.method.request(), route, exchange)
        read = body.Body(exchange.http, self._limits_of(route.method.name))
        read.check_type(body.LINES_TYPES)
        number = 0
        async with aclosing(read.lines()) as lines:
            async for line in lines:
                message = route.method.request()
                path = f"lines[{number}]"
                await self._run_aside(len(line), partial(_fill_line, message, line, path))
                yield message
                number += 1

    async def _resume(self, exchange: _Exchange, message: Any, to: context.RestContext) -> bool:
        """Goes on where the client's last event was; False: there is no more."""
        last = exchange.http.headers.get(LAST_EVENT_ID)
        if not last or self._get_batch is None:
            return True
        exchange.resume = ResumeToken.parse(last)
        batch = await self._get_batch(query_pb2.GetBatchRequest(correlation_id=message.correlation_id), to)
        exchange.complete = not exchange.resume.apply(message, batch.job_count)
        return not exchange.complete


def _fill(message: Message, route: Route, text: bytes) -> None:
    value = decode.parse(text, "body")
    if route.body == "*":
        decode.fill(message, value, "")
    elif (bound := decode.field_of(message.DESCRIPTOR, route.body)) is not None:
        decode.put(message, bound, value, route.body)


def _fill_line(message: Message, line: bytes, path: str) -> None:
    decode.fill(message, decode.parse(line, path), f"{path}.")


async def _answer_stream(
    exchange: _Exchange, method: Method, entry: Entry, certificate_pem: bytes | None
) -> web.StreamResponse:
    form = _form(exchange.http)
    if method.name == STREAM_LOGS and isinstance(form, Events):
        exchange.resume = ResumeToken()

    async def write(message: Any) -> None:
        # StreamLogs' messages are encoded already, see rpc/chunk.py.
        if type(message) is bytes:
            message = method.response(message)
        if exchange.resume is None or exchange.resume.take(message):
            await stream.send(message)

    call = context.RestContext(exchange.http, certificate_pem=certificate_pem, write=write)
    stream = Stream(
        exchange.http,
        form,
        headers=call.headers,
        event_id=lambda _: None if exchange.resume is None else exchange.resume.event_id(),
    )
    async with stream:
        await entry(exchange, call)
        if stream.started:
            return await stream.finish(call.failure)
    if call.failure is not None:
        return answer.status_response(exchange.http, call.failure, http_status=call.http_status, headers=call.headers)
    if exchange.complete:
        # "Clients will reconnect if the connection is closed; a client can be told to stop reconnecting using the HTTP
        # 204 No Content response code" (the HTML standard, on server-sent events).
        return web.Response(status=204, headers={**answer.COMMON_HEADERS, **call.headers})
    return await stream.finish()


def _form(request: web.BaseRequest) -> Lines | Events:
    accepted = (part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(","))
    return Events() if Events.content_type in accepted else Lines()


def _put_parameters(message: Message, route: Route, exchange: _Exchange) -> None:
    bound = list(exchange.variables)
    if exchange.http.rel_url.raw_query_string.count("&") >= query.MAX_PARAMETERS:
        raise invalid("query", f"has more than {query.MAX_PARAMETERS} parameters")
    if route.body == "*":
        for name in exchange.http.rel_url.query:
            if name not in bound:
                raise query.unknown(name, message)
    else:
        query.put_query(
            message, exchange.http.rel_url.query.items(), bound=[*bound, route.body] if route.body else bound
        )
    query.put_path(message, exchange.variables)


def _unary(route: Route, response: Any) -> Any:
    value = encode.to_object(response)
    if not route.response_body:
        return value
    return value.get(route.method.descriptor.output_type.fields_by_name[route.response_body].json_name)


async def _run(result: Any, to: context.RestContext) -> None:
    """A stream, whether its servicer writes or yields."""
    if hasattr(result, "__aiter__"):
        async with aclosing(result):
            async for response in result:
                await to.write(response)
    else:
        await result


@contextmanager
def _deadline(call: Call, seconds: float | None) -> Iterator[None]:
    """Cuts the call when its time is over, wherever it waits."""
    if seconds is None:
        yield
        return
    error = DeadlineError(f"the deadline of {seconds:g} s that the client gave has passed")
    timer = asyncio.get_running_loop().call_later(seconds, call.cut, error)
    try:
        yield
    finally:
        timer.cancel()


async def _stop(_message: Any) -> None:
    raise _HeadersAreEnough
