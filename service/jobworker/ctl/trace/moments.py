"""What happened at one time, whichever file says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_BARE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Moment:
    """`at` in Unix nanoseconds; `source` is where it stands: `results.jsonl:12`."""

    at: int
    event: str
    words: str
    source: str
    job_index: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Damage:
    """What could not be read, and was passed over."""

    places: list[str] = field(default_factory=list)

    def note(self, place: str) -> None:
        """One more place."""
        self.places.append(place)


@dataclass
class Stored:
    """What the files of a batch say. `counts` of jobs by state; `left_out` of those that are not told."""

    folder: Path
    header: dict[str, Any] = field(default_factory=dict)
    job_count: int | None = None  # None: it was never accepted whole
    state: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    moments: list[Moment] = field(default_factory=list)


def parse_id(text: str) -> str | None:
    """A CorrelationID in its usual form, from that or from a trace id; None: it is neither."""
    form = text.lower()
    if _BARE.fullmatch(form):
        form = f"{form[:8]}-{form[8:12]}-{form[12:16]}-{form[16:20]}-{form[20:]}"
    return form if _FORM.fullmatch(form) else None


def time_of(correlation_id: str) -> datetime:
    """The time in an id, in UTC.

    Raises:
        ValueError: it is none that a calendar has.
    """
    try:
        return datetime.fromtimestamp(int(correlation_id[:8] + correlation_id[9:13], 16) / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from error
