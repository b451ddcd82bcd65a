"""A request's body, as bytes: decompressed, within its limits, and in time. Knows no JSON and no methods."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from jobworker.server.errors import Violation, invalid
from jobworker.server.rest.refusal import MediaTypeError, SlowBodyError, TooLargeError

_PIECE_BYTES = 64 << 10
_LINES_A_TURN = 50  # of the event loop: each becomes a job
_GZIP = 16 + zlib.MAX_WBITS  # zlib.decompressobj: a gzip header, and nothing else

JSON_TYPES = ("application/json",)
LINES_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Bytes are of the text, decompressed; of a stream they are of one line."""

    max_bytes: int
    # A whole body has this long; of a stream, each piece.
    seconds: float = 60.0


class Body:
    """The body of one request. It is read once."""

    def __init__(self, request: web.BaseRequest, limits: BodyLimits) -> None:
        self._request = request
        self._limits = limits

    def check_type(self, allowed: tuple[str, ...]) -> None:
        """A body that says nothing of its type is taken for JSON.

        Raises:
            MediaTypeError: it is of another type, or not in UTF-8.
        """
        value = self._request.headers.get("Content-Type")
        if value is None:
            return
        media_type, *parameters = (part.strip().lower() for part in value.split(";"))
        if media_type not in allowed:
            raise MediaTypeError(Violation("content-type", f"is not {' or '.join(allowed[:2])}"))
        for parameter in parameters:
            name, _, charset = parameter.partition("=")
            if name == "charset" and charset.strip('"') not in ("utf-8", "utf8"):
                raise MediaTypeError(Violation("content-type", "has a charset that is not utf-8 (RFC 8259)"))

    async def whole(self) -> bytes:
        """All of it.

        Raises:
            TooLargeError: it is over the limit.
            SlowBodyError: it did not come in time.
        """
        length = self._request.content_length
        if length is not None and length > self._limits.max_bytes:
            raise TooLargeError("body", self._limits.max_bytes)
        found = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds), aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    found += piece
                    if len(found) > self._limits.max_bytes:
                        raise TooLargeError("body", self._limits.max_bytes)
        except TimeoutError:
            raise self._slow() from None
        return bytes(found)

    async def lines(self) -> AsyncGenerator[bytes]:
        """Its lines, each as soon as it is there, without those that are blank; one of them in memory at a time.

        Raises:
            TooLargeError: a line is over the limit.
            SlowBodyError: nothing came for too long.
        """
        rest = bytearray()
        async with aclosing(self._timed(self._pieces())) as pieces:
            async for piece in pieces:
                begin = len(rest)
                rest += piece
                if (end := rest.rfind(b"\n", begin)) >= 0:
                    for number, line in enumerate(bytes(rest[:end]).split(b"\n")):
                        if number % _LINES_A_TURN == _LINES_A_TURN - 1:
                            await asyncio.sleep(0)
                        self._check_line(line)
                        if line.strip():
                            yield line
                    del rest[: end + 1]
                self._check_line(rest)
        if rest.strip():
            yield bytes(rest)

    def _check_line(self, line: bytes | bytearray) -> None:
        if len(line) > self._limits.max_bytes:
            raise TooLargeError("line", self._limits.max_bytes)

    async def _timed(self, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async with aclosing(pieces):
            while True:
                try:
                    async with asyncio.timeout(self._limits.seconds):
                        piece = await anext(pieces, None)
                except TimeoutError:
                    raise self._slow() from None
                if piece is None:
                    return
                yield piece

    async def _pieces(self) -> AsyncGenerator[bytes]:
        coding = self._request.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            raise MediaTypeError(Violation("content-encoding", "is not gzip or identity"))
        raw = self._raw()
        source = raw if coding == "identity" else _gunzip(raw)
        async with aclosing(raw), aclosing(source):
            async for piece in source:
                yield piece

    async def _raw(self) -> AsyncGenerator[bytes]:
        request = self._request
        if request.headers.get("Expect", "").lower() == "100-continue":  # RFC 9110 section 10.1.1
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        while True:
            try:
                piece = await request.content.read(_PIECE_BYTES)
            except ConnectionError:
                raise asyncio.CancelledError from None  # the client is gone: a part of a body must not look whole
            except (HttpProcessingError, web.RequestPayloadError):
                raise invalid("body", "is not framed as HTTP asks for") from None
            if not piece:
                return
            yield piece

    def _slow(self) -> SlowBodyError:
        return SlowBodyError(f"the body did not come within {self._limits.seconds:g} s")


async def _gunzip(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Decompresses in pieces that are bounded whatever the input expands to."""
    member = zlib.decompressobj(_GZIP)
    began = False
    async for piece in pieces:
        data, more = piece, False
        while data or more:
            if member.eof:  # RFC 1952 section 2.2: members follow one another
                member, began = zlib.decompressobj(_GZIP), False
            try:
                text = member.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise invalid("body", "is not gzip") from None
            began = True
            data = member.unused_data if member.eof else member.unconsumed_tail
            more = len(text) == _PIECE_BYTES and not member.eof  # all of the input may be in, and not all of it out
            if text:
                yield text
            await asyncio.sleep(0)  # a small body may expand for long, and may be many members that are empty
    if began and not member.eof:
        raise invalid("body", "ends in the middle of its gzip")
