"""Finds a batch's folder in the service's data, and reads what its files tell. They may be damaged, cut off in the
middle, or growing just now. Must not need the service's own code: the form of the files is a published one."""

from __future__ import annotations

import os
from pathlib import Path

from jobworker.ctl.exits import CtlError, Exit
from jobworker.ctl.trace.lines import parsed, whole_lines
from jobworker.ctl.trace.moments import Damage, Moment, Stored, time_of
from jobworker.ctl.trace.results import Results

BATCH = "batch.jsonl"


def find(data: Path, correlation_id: str) -> Path | None:
    """The batch's folder; None: there is none.

    Raises:
        CtlError: the data folder is not there, or may not be read.
    """
    try:
        users = os.listdir(data / "batches")
        places = [data / "active" / correlation_id]
        when = time_of(correlation_id)
        places += [data / "batches" / user / f"{when:%Y-%m-%d}" / f"{when:%H%M}" / correlation_id for user in users]
        # Once more: it may have ended, and moved, between the first look and the others.
        for place in (*places, *places):
            if place.is_dir():
                os.listdir(place)
                return place
    except FileNotFoundError:
        raise CtlError(f"{data}: is not a data folder of a service; --data or JOBWORKER_PATHS__DATA names it") from None
    except OSError as error:
        raise CtlError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise CtlError(f"there is no batch {correlation_id}: its time is none", Exit.NOT_FOUND) from None
    return None


def read(folder: Path, *, most_jobs: int | None, damage: Damage) -> Stored:
    """Everything but the logs of its jobs; of the jobs the first `most_jobs` and as many more that failed, or all."""
    stored = Stored(folder)
    _read_header(stored, damage)
    Results(stored, most_jobs, damage).read()
    return stored


def _read_header(stored: Stored, damage: Damage) -> None:
    path = stored.folder / BATCH
    first, last = None, None
    for number, line in whole_lines(path, damage):
        first = first or (number, line)
        last = line
    header = parsed(first[1], f"{BATCH}:1", damage) if first else None
    closing = parsed(last, f"{BATCH}: the last line", damage) if last and last.startswith(b'{"end":') else None
    stored.header = header or {}
    stored.job_count = closing.get("end") if closing else None
    at = stored.header.get("accepted_at")
    if isinstance(at, int):
        jobs = f"{stored.job_count} jobs" if stored.job_count is not None else "not whole: it was never acknowledged"
        words = f"for {stored.header.get('user')}: {jobs}"
        stored.moments.append(Moment(at, "accepted", words, f"{BATCH}:1", fields={"user": stored.header.get("user")}))
