"""Finds the lines about a batch in the service's log: `service.jsonl`, the older files beside it, and what a log
rotation from outside has made of them, compressed or not."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from jobworker.ctl.exits import CtlError
from jobworker.ctl.trace.moments import Damage, Moment

NAME = "service.jsonl"
# The batch's own files tell these, and all of them.
_TOLD = frozenset({"job ended", "jobs ordered", "batch accepted", "batch finished"})
_NOT_FIELDS = frozenset({"event", "level", "timestamp", "correlation_id", "trace_id"})


def read(logs: Path, correlation_id: str, damage: Damage, *, whole: bool) -> list[Moment]:
    """What was told of it; `whole`: also what the batch's own files tell.

    Raises:
        CtlError: the folder, or the log in it, is not there or may not be read.
    """
    try:
        names = sorted(name for name in os.listdir(logs) if name.startswith(NAME))
    except FileNotFoundError:
        raise CtlError(f"{logs}: is not there; --logs or JOBWORKER_PATHS__LOGS names the folder") from None
    except OSError as error:
        raise CtlError(f"{logs}: cannot be read: {error.strerror}") from error
    if not names:
        raise CtlError(f"{logs}: there is no {NAME}; --logs or JOBWORKER_PATHS__LOGS names the folder of a service")
    found: dict[bytes, Moment] = {}
    for name in names:
        for number, line in _lines(logs / name, damage):
            moment = _moment(line, correlation_id, f"{name}:{number}", damage)
            # A file that was just being renamed is read under both names.
            if moment is not None and (whole or moment.event not in _TOLD):
                found.setdefault(line, moment)
    return list(found.values())


def _lines(path: Path, damage: Damage) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from enumerate(file, 1)
    except FileNotFoundError:  # rotated away since we looked
        return
    except (EOFError, gzip.BadGzipFile, zlib.error):
        damage.note(str(path))
    except OSError as error:
        raise CtlError(f"{path}: cannot be read: {error.strerror}") from error


def _moment(line: bytes, correlation_id: str, source: str, damage: Damage) -> Moment | None:
    if correlation_id.encode() not in line:
        return None
    try:
        d: dict[str, Any] = json.loads(line)
        when = datetime.fromisoformat(d["timestamp"])
        at = int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000
        event = str(d["event"])
    except (ValueError, KeyError, TypeError):
        damage.note(source)
        return None
    fields = {key: value for key, value in d.items() if key not in _NOT_FIELDS and value is not None}
    if event == "rpc":
        return _call(at, fields, source)
    level = d.get("level", "")
    shown = " ".join(f"{key}={value}" for key, value in fields.items())
    words = f"{level}: {shown}" if level not in ("info", "debug") else shown
    return Moment(at, event, words, source, fields.get("job_index"), {"level": level, **fields})


def _call(at: int, fields: dict[str, Any], source: str) -> Moment:
    """A call is told when it is over; here it stands where it began."""
    seconds = fields.get("seconds")
    took = f", {seconds:.3f} s" if isinstance(seconds, int | float) else ""
    began = at - int(seconds * 1e9) if isinstance(seconds, int | float) else at
    method = str(fields.get("method", "")).rpartition("/")[2]
    return Moment(
        began, "call", f"{method} by {fields.get('user') or '-'}: {fields.get('code')}{took}", source, None, fields
    )
