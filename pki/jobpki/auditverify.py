"""Checks that an audit log is as it was written: that each line fits the one before. Reads only.

What nobody can see from the files alone: that the newest lines were cut off, or that the whole was written anew by
somebody who may. A copy elsewhere shows that, or the last hash if it was kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jobpki.auditchain import START, Line, Link, decode
from jobpki.auditfile import NAME, rotated

FAULTS_MOST = 20
_TORN_LINES_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path}: line {self.number}"


@dataclass(slots=True)
class Verified:
    """What was found: `faults`, a line of text each, no more than FAULTS_MOST; `notes` are not faults. `begin` and
    `end` are the times of the first and the last line."""

    lines: int = 0
    files: int = 0
    begin: str = ""
    end: str = ""
    last: Link = field(default_factory=Link)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


# What is shown at a terminal; a line that was tampered with may hold anything.
_TIME = re.compile("[0-9T:.+Z-]{1,40}")


class _EnoughError(Exception):
    """There are more faults than are told."""


def files_of(places: Iterable[Path]) -> list[list[Path]]:
    """The files of each log, oldest first. A place is a folder, or a file; files of one name are one log.

    Raises:
        OSError: there is none.
    """
    logs: dict[Path, list[tuple[int, Path]]] = {}
    for place in places:
        if place.is_dir():
            found = [(number, Path(path)) for number, path in rotated(str(place / NAME))]
            if (place / NAME).exists() or not found:
                found.append((0, place / NAME))
            logs.setdefault(place / NAME, []).extend(found)
        else:
            name, dot, number = place.name.rpartition(".")
            is_rotated = bool(dot) and number.isascii() and number.isdecimal()
            base = place.with_name(name) if is_rotated else place
            logs.setdefault(base, []).append((int(number) if is_rotated else 0, place))
    return [[path for _, path in sorted(set(files), reverse=True)] for files in logs.values()]


def verify(files: Iterable[Path]) -> Verified:
    """Checks one log, given its files, the oldest first.

    Raises:
        OSError: one cannot be read.
    """
    walk = _Walk()
    try:
        for path in files:
            walk.file(path)
        walk.end()
    except _EnoughError:
        pass
    return walk.found


def summary(found: Verified) -> str:
    """A log in one line."""
    if found.faults:
        more = f"{FAULTS_MOST} or more" if len(found.faults) >= FAULTS_MOST else str(len(found.faults))
        return f"NOT OK: {more} faults"
    if not found.lines:
        return "OK: no lines"
    return (
        f"OK: {found.lines} lines in {found.files} files, {found.begin} to {found.end}; "
        f"the last is number {found.last.number}, SHA-256 {found.last.digest}"
    )


class _Walk:
    def __init__(self) -> None:
        self.found = Verified()
        self._last: Link | None = None  # None: nothing was read
        self._place: Place | None = None  # of that line
        self._torn: list[tuple[Place, bytes]] = []  # what is not yet known to be closed

    def file(self, path: Path) -> None:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                self._raw(Place(path, number), raw)
        self.found.files += 1

    def end(self) -> None:
        while self._torn:
            self._not_closed()

    def _raw(self, place: Place, raw: bytes) -> None:
        line = decode(raw)
        if self._torn:
            if line is not None and line.is_closing and line.closes(b"".join(piece for _, piece in self._torn)):
                self.found.notes.append(
                    f"{self._torn[0][0]}: a crash has torn the end of the log here; line {place.number} closed it at "
                    f"{_time(line)}"
                )
                self._torn.clear()
                self._line(place, line)
            elif place.number - self._torn[0][0].number > _TORN_LINES_MOST:
                self._not_closed()
                self._raw(place, raw)
            else:
                self._torn.append((place, raw))
        elif line is not None:
            self._line(place, line)
        else:
            self._torn.append((place, raw))

    def _not_closed(self) -> None:
        """The first of what seemed torn is a fault; the rest is looked at again."""
        (place, _), *rest = self._torn
        self._torn = []
        self._fault(f"{place}: is not a line of an audit log: changed, inserted, or torn by a crash and not closed yet")
        for other, raw in rest:
            self._raw(other, raw)

    def _line(self, place: Place, line: Line) -> None:
        last = self._last
        self.found.lines += 1
        if last is None:
            self._first(place, line)
        elif line.number <= last.number:
            self._fault(f"{place}: has the number {line.number} after {last.number}: it was inserted, or moved")
            return
        elif line.number > last.number + 1:
            missing = line.number - last.number - 1
            self._fault(f"{place}: {missing} lines before it are missing: they were removed, moved, or changed")
        elif line.previous != last.digest:
            self._fault(f"{self._place}: its hash is not the one that {place} holds: one of the two was changed")
        self._last, self._place = line.link, place
        self.found.last = line.link
        self.found.end = _time(line)

    def _first(self, place: Place, line: Line) -> None:
        self.found.begin = _time(line)
        if line.number > 1:
            self.found.notes.append(f"{place}: begins with number {line.number}: older files are not here")
        elif line.number < 1 or line.previous != START:
            self._fault(f"{place}: is not the first line of an audit log: it was changed, or lines were removed")

    def _fault(self, text: str) -> None:
        self.found.faults.append(text)
        if len(self.found.faults) >= FAULTS_MOST:
            raise _EnoughError


def _time(line: Line) -> str:
    found = line.event.get("time")
    return found if isinstance(found, str) and _TIME.fullmatch(found) else "?"
