"""A stream of messages as the body of one response: a JSON object a line, or server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

from aiohttp import web

from jobworker.server.rest import answer, encode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from google.protobuf.message import Message
    from google.rpc import status_pb2

# A follower of a silent job is told by then that the call is well: the headers go out before there is a message.
_SILENCE_SECONDS = 1.0
# Intermediaries end silent connections: "every 15 seconds or so", says the HTML standard on server-sent events.
_BEAT_SECONDS = 15.0
# A failure is told to a client that takes something; one that does not is cut off.
_LAST_WORDS_SECONDS = 5.0
_SLICE_BYTES = 256 << 10
# Larger pieces are compressed beside the event loop.
_COMPRESS_ASIDE_BYTES = 32 << 10


class Encoder(Protocol):
    """How messages become text. `event_id` is where a client may go on."""

    content_type: str
    beat: bytes

    def message(self, text: bytes, event_id: str | None) -> bytes: ...

    def failure(self, status: status_pb2.Status) -> bytes: ...

    def end(self) -> bytes: ...


class Lines:
    """A JSON object a line: `{"result": ...}`, the last one `{"error": ...}` where the stream failed."""

    content_type = "application/x-ndjson"
    beat = b""

    def message(self, text: bytes, event_id: str | None) -> bytes:  # noqa: ARG002
        return b"".join((b'{"result":', text, b"}\n"))

    def failure(self, status: status_pb2.Status) -> bytes:
        return encode.to_bytes({"error": encode.to_object(status)}) + b"\n"

    def end(self) -> bytes:
        return b""


class Events:
    """Server-sent events: messages without a name, `failed` with a status, `end` when there is no more."""

    content_type = "text/event-stream"
    beat = b":\n\n"

    def message(self, text: bytes, event_id: str | None) -> bytes:
        head = b"" if event_id is None else b"id: " + event_id.encode() + b"\n"
        return b"".join((head, b"data: ", text, b"\n\n"))

    def failure(self, status: status_pb2.Status) -> bytes:
        return b"event: failed\ndata: " + encode.to_bytes(encode.to_object(status)) + b"\n\n"

    def end(self) -> bytes:
        return b"event: end\ndata: {}\n\n"


class Stream:
    """`async with` around the call. Nothing is sent before the first message, or a second of silence."""

    def __init__(
        self,
        request: web.BaseRequest,
        encoder: Encoder,
        *,
        headers: Mapping[str, str],
        event_id: Callable[[Message], str | None] = lambda _: None,
    ) -> None:
        """`headers` may grow until the stream has started."""
        self._request = request
        self._encoder = encoder
        self._headers = headers
        self._event_id = event_id
        self._turn = asyncio.Lock()
        self._response: web.StreamResponse | None = None
        self._compressor: Any = None
        self._beating: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether the headers are out."""
        return self._response is not None

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await self._beating

    async def send(self, message: Message) -> None:
        """Sends a message, which is used up; waits while the client takes nothing.

        Raises:
            ConnectionError: the client is gone.
        """
        event_id = self._event_id(message)
        text = self._encoder.message(encode.to_text(message), event_id)
        async with self._turn:
            await self._write(text)

    async def finish(self, failure: status_pb2.Status | None = None) -> web.StreamResponse:
        """The end, of a stream that has started if it failed."""
        text = self._encoder.end() if failure is None else self._encoder.failure(failure)
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS), self._turn:
                response = await self._write(text)
                if self._compressor is not None:
                    await response.write(self._compressor.flush())
                await response.write_eof()
        except TimeoutError:
            # It has not read what came before either; closing in order would wait for it.
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None
        return response

    async def _beat(self) -> None:
        await asyncio.sleep(_SILENCE_SECONDS)
        async with self._turn:
            await self._write(b"")
        while self._encoder.beat:
            await asyncio.sleep(_BEAT_SECONDS)
            async with self._turn:
                await self._write(self._encoder.beat)

    async def _write(self, text: bytes) -> web.StreamResponse:
        response = self._response
        if response is None:
            response = await self._start()
        if text and self._compressor is not None:
            text = await self._compress(text)
        # In slices: what is handed over is copied three times on its way through TLS, and kept while nobody reads.
        for begin in range(0, len(text), _SLICE_BYTES):
            await response.write(text[begin : begin + _SLICE_BYTES])
        return response

    async def _start(self) -> web.StreamResponse:
        headers = {**answer.COMMON_HEADERS, **self._headers, "Content-Type": self._encoder.content_type}
        if answer.takes_gzip(self._request):
            headers["Content-Encoding"] = "gzip"
            self._compressor = zlib.compressobj(answer.GZIP_LEVEL, zlib.DEFLATED, answer.GZIP_WBITS)
        response = web.StreamResponse(headers=headers)
        self._response = response
        await response.prepare(self._request)
        return response

    async def _compress(self, text: bytes) -> bytes:
        """Whole messages: what a client has received, it can decompress."""
        if len(text) < _COMPRESS_ASIDE_BYTES:
            return self._deflate(text)
        return await asyncio.get_running_loop().run_in_executor(None, self._deflate, text)

    def _deflate(self, text: bytes) -> bytes:
        data: bytes = self._compressor.compress(text) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return data
