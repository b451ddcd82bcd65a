"""Which batches a listing is about. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobworker.server.errors import invalid
from jobworker.server.model import BatchState, BatchView

_DIGITS = re.compile(r"[0-9a-f]{1,32}")
# Clients may name batches, with a time that is this far from the service's (scheduling/validate.py).
_CLIENTS_CLOCK_MS = 86_400_000
_LAST_MS = (1 << 48) - 1  # RFC 9562 section 5.7: unix_ts_ms has 48 bits
_AFTER_ALL = "~"  # sorts behind every id


@dataclass(frozen=True)
class BatchFilter:
    """What is empty or None asks for nothing. Times are of the acceptance, in nanoseconds since 1970."""

    states: frozenset[BatchState] = frozenset()
    id_prefix: str = ""  # in canonical form, see `canonical_prefix`
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    since_ns: int | None = None
    until_ns: int | None = None

    def takes(self, batch: BatchView) -> bool:
        """Whether it is one of them."""
        header = batch.header
        return (
            (not self.states or batch.state in self.states)
            and header.correlation_id.startswith(self.id_prefix)
            and self.name in ("", header.name)
            and all(header.labels.get(key) == value for key, value in self.labels.items())
            and (self.since_ns is None or header.accepted_at >= self.since_ns)
            and (self.until_ns is None or header.accepted_at < self.until_ns)
        )

    @property
    def first(self) -> str:
        """No id that sorts before this one is taken."""
        since = "" if self.since_ns is None else _id_time(self.since_ns // 1_000_000 - _CLIENTS_CLOCK_MS)
        return max(since, self.id_prefix)

    @property
    def behind(self) -> str:
        """No id that sorts behind this text is taken."""
        until = _AFTER_ALL
        if self.until_ns is not None:
            until = _id_time(self.until_ns // 1_000_000 + _CLIENTS_CLOCK_MS + 1)
        return min(until, self.id_prefix + _AFTER_ALL)


def canonical_prefix(text: str, field: str = "id_prefix") -> str:
    """The beginning of an id in its canonical form (RFC 9562 section 4), from digits in either case, with or without
    dashes.

    Raises:
        InvalidRequestError: it is not the beginning of any id; the error names `field`.
    """
    if not text:
        return ""
    digits = text.lower().replace("-", "")
    if not _DIGITS.fullmatch(digits):
        raise invalid(field, "is not the beginning of a UUIDv7 such as 019312d4-5c00-7abc-8def-0123456789ab")
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(part for part in parts if part)


def _id_time(unix_ms: int) -> str:
    digits = f"{min(max(unix_ms, 0), _LAST_MS):012x}"
    return f"{digits[:8]}-{digits[8:]}"
