"""Lines of JSON that may be damaged, or cut off in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobworker.ctl.exits import CtlError
from jobworker.ctl.trace.moments import Damage


def whole_lines(path: Path, damage: Damage) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their numbers; the rest of a line that is just being written, or never was, is passed over."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    damage.note(f"{path}:{number}")
                    return
                yield number, line
    except FileNotFoundError:  # nothing has happened yet; or the batch has just moved
        return
    except OSError as error:
        raise CtlError(f"{path}: cannot be read: {error.strerror}") from error


def parsed(line: bytes, place: str, damage: Damage) -> dict[str, Any] | None:
    """The object of a line; None: it is none, which is noted."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        damage.note(place)
        return None
    return found
