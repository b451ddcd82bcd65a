"""Lengths of time as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(text: str) -> float:
    """Seconds of `90`, `1.5s`, `10m`, `1h30m`, `250ms`, `2d`.

    Raises:
        ValueError: it is none of these.
    """
    try:
        seconds = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f"{text!r} is not a duration such as 90, 1.5s, 10m or 1h30m") from None
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 <= seconds < 10_000 * 365 * 86400:  # google.protobuf.Duration holds 10,000 years; nan fails as well
        raise ValueError(f"{text!r} is out of range")
    return seconds


def parse_time(text: str, *, now: float) -> datetime:
    """The time of `2h` (before `now`, in seconds since 1970), `2026-01-31`, `2026-01-31T08:00` or `2026-01-31 08:00Z`;
    without an offset it is in the user's zone (ISO 8601, RFC 3339).

    Raises:
        ValueError: it is none of these.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromtimestamp(now - parse_seconds(text), UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a duration such as 2h nor a time such as 2026-01-31T08:00Z") from None


def format_seconds(seconds: float) -> str:
    """`0.25s`, `12.3s`, `4m05s`, `3h07m`, `2d04h`."""
    if seconds < 10:
        return f"{seconds:.2f}s"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"
