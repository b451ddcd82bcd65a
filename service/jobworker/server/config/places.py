"""Finds the line of a TOML file that says a key. Knows no configuration."""

from __future__ import annotations

import tomllib


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line, from 1, on which a key, or the table of that name, begins; None: nothing in the text says it.

    tomllib tells no positions. But the first lines of a file are a file too, wherever a statement ends: the key is said
    by the statement with which it is first there. `text` is valid TOML.
    """
    lines = text.split("\n")
    if not _has(lines, path):
        return None
    without, with_it = 0, len(lines)  # so many lines do not have it, and so many do
    while with_it - without > 1:
        middle = (without + with_it) // 2
        # Up to here may be no file: it ends inside a value over several lines. Then up to an earlier end.
        end = next((n for n in range(middle, without, -1) if _has(lines[:n], path) is not None), None)
        if end is None:
            end = next((n for n in range(middle + 1, with_it) if _has(lines[:n], path) is not None), None)
            if end is None:
                break
        if _has(lines[:end], path):
            with_it = end
        else:
            without = end
    statement = range(without, with_it)
    return next((n for n in statement if lines[n].strip() and not lines[n].lstrip().startswith("#")), without) + 1


def _has(lines: list[str], path: tuple[str, ...]) -> bool | None:
    """Whether they say the key; None: they are not a file."""
    try:
        found = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None
    for part in path:
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True
