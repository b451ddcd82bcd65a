"""What the commit log's segments say, batch by batch. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobworker.server.errors import DamagedError
from jobworker.server.store.commitlog import segments
from jobworker.server.store.frames import Accept, FormatError, Gone, Lines, read_segment
from jobworker.server.store.layout import Layout
from jobworker.server.store.replay import Report


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
            if isinstance(frame, Gone):
                self.batches.pop(frame.correlation_id, None)
                continue
            logged = self.batches.setdefault(frame.correlation_id, Logged())
            if isinstance(frame, Accept):
                logged.accept = frame
            else:
                logged.pieces.append(frame)
