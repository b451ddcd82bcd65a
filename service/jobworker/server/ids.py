"""CorrelationIDs: UUIDv7 (RFC 9562 section 5.7), the names of batches. The time in one says where its files lie."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

from jobworker.server.errors import invalid

_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_RANDOM_BYTES = 10
_random = bytearray()  # a system call for each would be as long as all the rest
_BARE = re.compile(r"[0-9a-f]{32}")


class CorrelationId(str):
    """A UUIDv7 in its canonical form: 36 characters, lower case, with dashes."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "correlation_id") -> CorrelationId:
        """Takes the canonical form, upper case too, and the 32 digits of a trace id.

        Raises:
            InvalidRequestError: it is not a UUIDv7; the error names `field`.
        """
        if not text:
            raise invalid(field, "is missing")
        form = text.lower()
        if _BARE.fullmatch(form):
            form = f"{form[:8]}-{form[8:12]}-{form[12:16]}-{form[16:20]}-{form[20:]}"
        if not _FORM.fullmatch(form):
            raise invalid(field, "is not a UUIDv7 such as 019312d4-5c00-7abc-8def-0123456789ab")
        return cls(form)

    @classmethod
    def make(cls, unix_ms: int) -> CorrelationId:
        """A new one at a time, in milliseconds since 1970; the other 74 bits are random."""
        value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(_random_bytes(), "big")
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        h = f"{value:032x}"
        return cls(f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}")

    @property
    def unix_ms(self) -> int:
        """Its time, in milliseconds since 1970."""
        return int(self[:8] + self[9:13], 16)

    @property
    def time(self) -> datetime:
        """Its time, in UTC. The 48 bits can name years that datetime cannot; accept refuses those far from now."""
        return datetime.fromtimestamp(self.unix_ms / 1000, UTC)

    @property
    def trace_id(self) -> str:
        """The 32 digits of the batch's OpenTelemetry trace id."""
        return self.replace("-", "")


def is_id(name: str) -> bool:
    """The canonical form of a CorrelationID."""
    return _FORM.fullmatch(name) is not None


def _random_bytes() -> bytes:
    if not _random:
        _random.extend(os.urandom(400 * _RANDOM_BYTES))
    taken = bytes(_random[-_RANDOM_BYTES:])
    del _random[-_RANDOM_BYTES:]
    return taken
