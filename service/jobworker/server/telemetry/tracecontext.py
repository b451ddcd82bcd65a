"""W3C Trace Context: the ids of a batch's spans, and what a caller says of its own trace. Knows no SDK.

The ids of a batch's spans follow from its CorrelationID, so that a job can be told its span before there is one, and a
server that is started again writes the same trace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from jobworker.server.ids import CorrelationId

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
SAMPLED = 1  # of the trace-flags

# https://www.w3.org/TR/trace-context/#traceparent-header-field-values; later versions may have more behind a dash.
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_LENGTH_MOST = 512  # "vendors SHOULD propagate at least 512 characters"


class Part(StrEnum):
    """What of a batch a span is about."""

    ROOT = "batch"
    ACCEPT = "accept"
    QUEUE = "queue"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Remote:
    """The span of a caller."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def trace_id(correlation_id: CorrelationId) -> int:
    """The number of a batch's trace."""
    return int(correlation_id.trace_id, 16)


def span_id(correlation_id: CorrelationId, part: Part, index: int = 0) -> int:
    """The number of one of its spans; never 0, which the format forbids."""
    text = f"{correlation_id}/{index}/{part.value}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1


def job_traceparent(correlation_id: CorrelationId, index: int, *, sampled: bool) -> str:
    """What a job is told of the span that it runs in."""
    return f"00-{correlation_id.trace_id}-{span_id(correlation_id, Part.RUN, index):016x}-{int(sampled):02x}"


def parse(traceparent: str, tracestate: str = "") -> Remote | None:
    """A caller's span; None: what it says is not of the form, and is to be ignored."""
    found = _FORM.fullmatch(traceparent.strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    trace, span = int(found[2], 16), int(found[3], 16)
    if not trace or not span:
        return None
    state = tracestate if len(tracestate) <= _STATE_LENGTH_MOST else ""
    return Remote(trace, span, bool(int(found[4], 16) & SAMPLED), state)


def remote_of(metadata: Iterable[tuple[str, str | bytes]]) -> Remote | None:
    """What a call's metadata, or headers, with names in lower case, say of the caller's span."""
    parent: str | None = None
    states: list[str] = []
    for key, value in metadata:
        if key == TRACEPARENT:
            if parent is not None or not isinstance(value, str):
                return None
            parent = value
        elif key == TRACESTATE and isinstance(value, str):
            states.append(value)
    return None if parent is None else parse(parent, ",".join(states))
