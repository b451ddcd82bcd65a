"""`jobpki renew --watch`: renews what is due, again and again, beside a running service."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from jobpki.errors import PkiError
from jobpki.options import now
from jobpki.renewal import renew_due


def watch(root: Path, *, every_seconds: float) -> None:
    """Until SIGTERM or SIGINT. What cannot be renewed now is tried again at the next turn; a line says why, and
    is not repeated as long as it is the same."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal(2) calls it
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    last: list[str] = []
    while True:
        try:
            done = renew_due(root, now=now())
        except PkiError as error:
            told = [f"jobpki: {error}"]
        else:
            for subject, until in done.done:
                _say(f"renewed {subject.folder}: valid until {until:%Y-%m-%d %H:%M:%S} UTC")
            told = [f"note: {note}" for note in done.notes]
        if told != last:
            for line in told:
                _say(line)
        last = told
        if ended.wait(every_seconds):
            return


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
