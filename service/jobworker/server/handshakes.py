"""Connections that came to nothing, told in the log: with address and cause, and however many there are, a line or two
every ten seconds. Knows no sockets."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobworker.server.telemetry.log import Log

_TELL_SECONDS = 10.0  # between two lines
_CAUSES_MOST = 10  # in a line; of more there is the count


class Refusals:
    """Those of one listener. On the event loop alone."""

    def __init__(self, *, log: Log, listener: str, words: str) -> None:
        """`words` are the event's, in the log."""
        self._log = log
        self._listener = listener
        self._words = words
        self._count = 0
        self._of: dict[str, None] = {}  # addresses with causes, in the order they came
        self._timer: asyncio.TimerHandle | None = None

    def add(self, address: str, cause: str = "") -> None:
        """One more. The first is told at once, those of the seconds after it together."""
        self._count += 1
        if len(self._of) < _CAUSES_MOST:
            self._of[f"{address}: {cause}" if cause else address] = None
        if self._timer is None:
            self._tell()

    def close(self) -> None:
        """Tells what is left to be told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._count:
            self._write()

    def _tell(self) -> None:
        self._timer = None
        if self._count:
            self._write()
            self._timer = asyncio.get_running_loop().call_later(_TELL_SECONDS, self._tell)

    def _write(self) -> None:
        self._log.warning(self._words, listener=self._listener, connections=self._count, of=list(self._of))
        self._count, self._of = 0, {}


def why(error: Exception) -> str:
    """Why a handshake failed, in OpenSSL's words where it has some. A client's alert is what the client has against the
    server."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "it took too long" if isinstance(error, TimeoutError) else "the client hung up"
