"""Handshakes that failed, told in the log: with address and cause, and however many there are, a line or two every ten
seconds. Knows no sockets."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobworker.server.telemetry.log import Log

_TELL_SECONDS = 10.0  # between two lines
_CAUSES_MOST = 10  # in a line; of more there is the count


class FailedHandshakes:
    """Those of one listener. On the event loop alone."""

    def __init__(self, *, log: Log, listener: str) -> None:
        self._log = log
        self._listener = listener
        self._count = 0
        self._causes: dict[str, None] = {}  # with their addresses, in the order they came
        self._timer: asyncio.TimerHandle | None = None

    def add(self, address: str, error: Exception) -> None:
        """One more. The first is told at once, those of the seconds after it together."""
        self._count += 1
        if len(self._causes) < _CAUSES_MOST:
            self._causes[f"{address}: {_cause(error)}"] = None
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
        self._log.warning(
            "handshakes failed", listener=self._listener, connections=self._count, causes=list(self._causes)
        )
        self._count, self._causes = 0, {}


def _cause(error: Exception) -> str:
    """In words; OpenSSL's own where it has them. A client's alert is what the client has against the server."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "it took too long" if isinstance(error, TimeoutError) else "the client hung up"
