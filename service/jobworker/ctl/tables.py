"""Tables of plain text that fit a width. Identifiers, numbers and states are never cut: where there is no room, columns
that a reader can do without are left out, then texts of free length end in an ellipsis. Nothing here knows what cells
mean; they are `visible` already.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GAP = "  "
_ELLIPSIS = "…"
_LEAST_WIDTH = 8  # of a text that is cut: less says nothing
# ECMA-48, Select Graphic Rendition
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}


@dataclass(frozen=True)
class Styled:
    """Text with a style: a name of `_CODES`, or none."""

    text: str
    style: str = ""


Cell = str | Styled


@dataclass(frozen=True)
class Column:
    """`expendable`: it may be left out where there is no room, those of the greatest number first; 0: it may not.
    `shrinks`: its texts may be cut."""

    title: str
    expendable: int = 0
    shrinks: bool = False
    right: bool = False


@dataclass(frozen=True)
class Look:
    """How wide lines may be (None: as they need), whether in colours, and whether what is cut ends in `…` or `...`."""

    width: int | None = None
    colours: bool = False
    unicode: bool = True


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], look: Look, *, header: bool = True
) -> Iterator[str]:
    """The lines of a table, without line feeds and without spaces at their ends."""
    titles = [column.title if header else "" for column in columns]
    needs = [
        max([display_width(titles[place]), *(display_width(_text(row[place])) for row in rows)])
        for place in range(len(columns))
    ]
    places = _places_with_room(columns, needs, look.width)
    widths = _fitted(columns, places, needs, look.width)
    if header:
        yield _line(columns, widths, [Styled(title, "bold") for title in titles], look)
    for row in rows:
        yield _line(columns, widths, row, look)


def render_facts(facts: Sequence[tuple[str, Cell]], look: Look) -> Iterator[str]:
    """Lines of a name and a value; nothing is cut. An empty name goes on with the one before."""
    width = max((display_width(name) + 1 for name, _ in facts), default=0)
    for name, value in facts:
        title = f"{name}:" if name else ""
        yield f"{title}{' ' * (width - display_width(title))}{_GAP}{_painted(value, _text(value), look)}".rstrip()


def display_width(text: str) -> int:
    """Columns of a terminal that the text takes (Unicode Standard Annex 11): wide characters two, marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def cut(text: str, width: int, ellipsis: str = _ELLIPSIS) -> str:
    """The text, or as much of its begin as fits with an ellipsis after it."""
    if display_width(text) <= width:
        return text
    room, kept = width - len(ellipsis), []
    for character in text:
        room -= display_width(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept).rstrip() + ellipsis


def _places_with_room(columns: Sequence[Column], needs: Sequence[int], width: int | None) -> list[int]:
    places = list(range(len(columns)))
    if width is None:
        return places
    for place in sorted(range(len(columns)), key=lambda place: -columns[place].expendable):
        least = sum(min(needs[p], _LEAST_WIDTH) if columns[p].shrinks else needs[p] for p in places)
        if least + len(_GAP) * (len(places) - 1) <= width or not columns[place].expendable:
            break
        places.remove(place)
    return places


def _fitted(
    columns: Sequence[Column], places: Sequence[int], needs: Sequence[int], width: int | None
) -> dict[int, int]:
    """The width of each column by its place; what is too much is taken from those that shrink, the widest first."""
    widths = {place: needs[place] for place in places}
    if width is None:
        return widths
    excess = sum(widths.values()) + len(_GAP) * (len(places) - 1) - width
    while excess > 0:
        able = [p for p in places if columns[p].shrinks and widths[p] > _LEAST_WIDTH]
        if not able:
            break
        widest = max(able, key=lambda place: widths[place])
        taken = min(excess, widths[widest] - _LEAST_WIDTH)
        widths[widest] -= taken
        excess -= taken
    return widths


def _line(columns: Sequence[Column], widths: dict[int, int], row: Sequence[Cell], look: Look) -> str:
    parts = []
    for place, width in widths.items():
        text = _text(row[place])
        if columns[place].shrinks and look.width is not None:
            text = cut(text, width, _ELLIPSIS if look.unicode else "...")
        padding = " " * (width - display_width(text))
        painted = _painted(row[place], text, look)
        parts.append(padding + painted if columns[place].right else painted + padding)
    return _GAP.join(parts).rstrip()


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Styled) else cell


def _painted(cell: Cell, text: str, look: Look) -> str:
    code = _CODES.get(cell.style) if isinstance(cell, Styled) and look.colours and text else None
    return text if code is None else f"\x1b[{code}m{text}\x1b[0m"
