"""What the commit log's segments say, batch by batch. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobworker.server.errors import DamagedError
from jobworker.server.store.commitlog import segments
from jobworker.server.store.frames import Accept, FormatError, Gone, Lines, Totals, read_segment
from jobworker.server.store.layout import Layout
from jobworker.server.store.replay import Report
from jobworker.server.store.stored import Stored


@dataclass
class Logged:
    """What the log's segments say of a batch."""

    accept: Accept | None = None
    pieces: list[Lines] = field(default_factory=list)


class CommittedBatches:
    """Read when it is made."""

    def __init__(self, layout: Layout, report: Report) -> None:
        """`report(path, problem)` is told of what cannot be read.

        Raises:
            DamagedError: a segment is of a newer version.
        """
        self.batches: dict[str, Logged] = {}
        self.numbers: list[int] = []
        self.boot: str | None = None  # that the last segment was begun in; None: there is no segment
        self.damaged = False
        # What the finished batches of each user take; None: the log does not say. Of the batches in `changed` the log
        # says something since then: if they are complete, they are not in it yet.
        self.stored: dict[str, Stored] | None = None
        self.changed: set[str] = set()
        self.gone: dict[str, str] = {}  # finished batches that are removed, or to be: id -> user
        for number, path in segments(layout.commit_root):
            self.numbers.append(number)
            self._read(path, report)

    def _read(self, path: str, report: Report) -> None:
        def damaged(at: int) -> None:
            self.damaged = True
            report(path, f"the commit log cannot be read at byte {at}: what it said there is lost")

        try:
            head, frames = read_segment(Path(path).read_bytes(), damaged)
        except FormatError as e:
            raise DamagedError(f"the commit log is of a newer jobworker: {e}", path=path) from e
        if head is None:
            return
        self.boot = head.boot
        for frame in frames:
            if isinstance(frame, Totals):
                self.stored, self.changed = frame.users, set(frame.but)
                self.gone.update(frame.gone)
            elif isinstance(frame, Gone):
                self._gone(frame)
            else:
                self._said(frame)

    def _said(self, frame: Accept | Lines) -> None:
        self.changed.add(frame.correlation_id)
        logged = self.batches.setdefault(frame.correlation_id, Logged())
        if isinstance(frame, Accept):
            logged.accept = frame
            self.gone.pop(frame.correlation_id, None)  # its name was used again
        else:
            logged.pieces.append(frame)

    def _gone(self, frame: Gone) -> None:
        correlation_id = frame.correlation_id
        self.batches.pop(correlation_id, None)
        if frame.stored is not None:
            self.gone[correlation_id] = frame.user
            if self.stored is not None and correlation_id not in self.changed:
                self.stored.setdefault(frame.user, Stored()).take(frame.stored)
        self.changed.discard(correlation_id)
