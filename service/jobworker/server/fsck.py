"""`jobworker fsck` as a command: takes the folder's lock, tells how far it is, and what it found."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from jobworker.server.errors import DamagedError
from jobworker.server.store.fsck import Checked, Fsck, Problem
from jobworker.server.store.layout import DataInUseError, Layout

_CANNOT = 8
_TELL_EACH = 10_000  # batches


def run(data: Path, *, repair: bool, as_json: bool) -> int:
    """Looks through the folder; returns the exit status."""
    layout = Layout(data)
    if not (os.path.isdir(layout.active_root) and os.path.isdir(layout.finished_root)):
        print(f"jobworker: {data}: is not a data folder of jobworker", file=sys.stderr)
        return _CANNOT
    try:
        lock = layout.prepare(empties_trash=repair)
    except (DataInUseError, OSError) as e:
        print(f"jobworker: {e}", file=sys.stderr)
        return _CANNOT
    try:
        found = Fsck(layout, repair=repair, progress=_tell_progress).run()
    except DamagedError as e:
        print(f"jobworker: {e.path}: {e}", file=sys.stderr)
        return _CANNOT
    except OSError as e:
        print(f"jobworker: {e.filename or data}: {e.strerror}", file=sys.stderr)
        return _CANNOT
    finally:
        os.close(lock)
    print(_json(found) if as_json else _table(found))
    return found.status


def _tell_progress(batches: int) -> None:
    if batches % _TELL_EACH == 0:
        print(f"jobworker: {batches} batches looked at", file=sys.stderr, flush=True)


def _json(found: Checked) -> str:
    whole = {"batches": found.batches, "unfinished": found.unfinished, "problems": list(map(asdict, found.problems))}
    return json.dumps(whole, indent=2)


def _table(found: Checked) -> str:
    lines = [_line(problem) for problem in found.problems]
    left = sum(not problem.repaired for problem in found.problems)
    lines.append(
        f"{found.batches} batches, {found.unfinished} of them unfinished; {len(found.problems)} problems, {left} left"
    )
    return "\n".join(lines)


def _line(problem: Problem) -> str:
    what = "repaired" if problem.repaired else f"--repair would {problem.repair}" if problem.repair else "left alone"
    return f"{problem.path}: {problem.what} ({what})"
