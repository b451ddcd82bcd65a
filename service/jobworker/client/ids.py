"""Names for batches, made by the client: UUIDv7 (RFC 9562 section 5.7)."""

from __future__ import annotations

import os


def new_correlation_id(unix_ms: int) -> str:
    """A new CorrelationID for a time in milliseconds since 1970: 36 characters, lower case; 74 of its bits are random.

    The service takes one that is within a day of its own clock.
    """
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
