"""The lines of an audit log: a JSON object each, numbered (`n`), with the SHA-256 of the line before (`prev`). So a
line that was changed, removed, inserted or moved no longer fits its neighbours. Knows no files.

The end of a file may be torn by a crash: it lacks its line feed, or what was not yet on disk reads as NUL. Whoever
goes on writing leaves those bytes as they are, and closes them by a line that holds their number and hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

START = "0" * 64  # the `prev` of the first line
TORN = "audit.torn"  # the line that closes what a crash tore
_JSON = json.JSONEncoder(separators=(",", ":"), default=str).encode


@dataclass(frozen=True, slots=True)
class Link:
    """Where a chain has come to: the number of its last line, and the hash of it in hex."""

    number: int = 0
    digest: str = START


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read."""

    event: Mapping[str, object]
    number: int
    previous: str
    digest: str

    @property
    def link(self) -> Link:
        """The chain's after it."""
        return Link(self.number, self.digest)

    @property
    def is_closing(self) -> bool:
        """Whether it says that a crash tore what is before it."""
        return self.event.get("what") == TORN

    def closes(self, torn: bytes) -> bool:
        """Whether it closes these bytes, which end with the line feed before it."""
        return self.event.get("torn_sha256") == _digest(torn.removesuffix(b"\n"))


def encode(event: Mapping[str, object], after: Link) -> tuple[bytes, Link]:
    """The line of an event, with its line feed, and where the chain is then."""
    text = _JSON({**event, "n": after.number + 1, "prev": after.digest}).encode()
    return text + b"\n", Link(after.number + 1, _digest(text))


def decode(raw: bytes) -> Line | None:
    """A line with its line feed; None: it is not one of an audit log."""
    if not raw.endswith(b"\n"):
        return None
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    number, previous = event.get("n"), event.get("prev")
    if type(number) is not int or not isinstance(previous, str):
        return None
    return Line(event, number, previous, _digest(raw[:-1]))


def torn(raw: bytes) -> dict[str, object]:
    """What the line says that closes these bytes."""
    return {"what": TORN, "torn_bytes": len(raw), "torn_sha256": _digest(raw.removesuffix(b"\n"))}


def end_of(lines: Sequence[bytes]) -> tuple[Link | None, bytes]:
    """Where the chain has come to at the end of these lines (None: there is none), and what of the end is torn and not
    closed. A last line that lacks its line feed alone is not torn."""
    link: Link | None = None
    begin: int | None = None
    for at, raw in enumerate(lines):
        line = decode(raw if raw.endswith(b"\n") else raw + b"\n")
        if begin is not None:
            if line is not None and line.is_closing and line.closes(b"".join(lines[begin:at])):
                begin, link = None, line.link
        elif line is not None:
            link = line.link
        elif b"\0" in raw or not raw.endswith(b"\n"):  # as a crash leaves it; anything else is somebody's doing
            begin = at
    return link, b"" if begin is None else b"".join(lines[begin:])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
